//! Two sizes that trade places, for every element type: `[n, a, b, c]` -> `[n, b, a, c]`.
//!
//! Reads go in steps of `b c`: for one pixel's channels the whole block lies in the first cache, for a whole picture
//! there are as many streams as `a`, which are few.

use scumble_tensor::memory::HostBuffer;
use scumble_tensor::{Result, Tensor, shape_error};

use crate::elementwise::PIECE;
use crate::engine::Engine;

/// See the module's text.
pub(crate) fn swap_middle(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    let &[n, a, b, c] = x.dims() else {
        return Err(shape_error("swap_middle", "input", "[n, a, b, c]", x.shape()));
    };
    let sizes = [a, b, c];
    let mut buffer = HostBuffer::for_overwrite(x.numel() * x.dtype().size())?;
    let (from, to) = (x.bytes()?, buffer.as_mut_bytes());
    match x.dtype().size() {
        1 => turn::<u8>(engine, from, to, sizes),
        2 => turn(engine, bytemuck::cast_slice::<u8, u16>(from), bytemuck::cast_slice_mut(to), sizes),
        4 => turn(engine, bytemuck::cast_slice::<u8, u32>(from), bytemuck::cast_slice_mut(to), sizes),
        _ => turn(engine, bytemuck::cast_slice::<u8, u64>(from), bytemuck::cast_slice_mut(to), sizes),
    }
    Tensor::from_buffer(x.dtype(), buffer, &[n, b, a, c])
}

fn turn<T: Copy + Send + Sync>(engine: &Engine, from: &[T], to: &mut [T], [a, b, c]: [usize; 3]) {
    // A unit is one place of `b`: everything that lies side by side in the result.
    let unit = a * c;
    if unit == 0 {
        return;
    }
    let units = (PIECE / unit).max(1);
    engine.pool.run_pieces(to, units * unit, |index, to| {
        for (at, to) in to.chunks_exact_mut(unit).enumerate() {
            let place = index * units + at;
            let from = &from[(place / b * a * b + place % b) * c..];
            if c == 1 {
                to.iter_mut().zip(from.iter().step_by(b)).for_each(|(to, from)| *to = *from);
            } else {
                to.chunks_exact_mut(c)
                    .enumerate()
                    .for_each(|(i, to)| to.copy_from_slice(&from[i * b * c..][..c]));
            }
        }
    });
}
