//! What tasks work in, and whose the picture at the positions is: every task's own, or brought there once for all.

use half::bf16;
use scumble_tensor::Result;

use super::picture::TransformPicture;
use super::task::Picture;
use super::{DEPTH_TILES, POSITIONS, Winograd, position_len};
use crate::engine::{Engine, Scratch};
use crate::pool::SharedMut;
use crate::tiles::{DEPTH, SIDE, SUMS, TILE};

/// Numbers of a picture at the positions that tasks share: 16 MiB.
pub(super) const SHARED_PICTURE: usize = 8 << 20;
/// Numbers of a task's part of it that a second-level cache holds: there it is better brought twice than shared.
const CACHED_PICTURE: usize = 512 << 10;

/// What tasks work in.
pub(super) struct Room {
    pictures: Pictures,
    /// Sums of all positions, for each worker.
    pub sums: Scratch,
}

/// Pictures at the positions.
enum Pictures {
    /// The whole picture, there already.
    Shared(Scratch),
    /// Room for a task's squares, for each worker.
    Own(Scratch),
}

impl Room {
    /// For tasks of so many strips. Where `sharing` tasks have the same squares, and the picture is not too large for that,
    /// it is brought to the positions once for all of them.
    pub fn new(
        of: &Winograd<'_>,
        engine: &Engine,
        strips: usize,
        sub_strips: usize,
        sharing: usize,
    ) -> Result<Self> {
        let threads = engine.pool.threads();
        let all = POSITIONS * position_len(of.squares().div_ceil(SIDE), of.depth_tiles());
        let own = POSITIONS * position_len(strips, of.depth_tiles());
        let gains = sharing > 2 || sharing == 2 && own > CACHED_PICTURE;
        let pictures = if gains && all <= of.most_picture {
            Pictures::Shared(at_positions(of, engine)?)
        } else {
            Pictures::Own(Scratch::new(threads, own / 2)?)
        };
        Ok(Self { pictures, sums: Scratch::new(threads, POSITIONS * strips * sub_strips * SUMS)? })
    }

    /// The picture for a task.
    ///
    /// # Safety
    /// No two tasks may run as the same worker at once.
    pub unsafe fn picture(&self, worker: usize) -> Picture<'_> {
        match &self.pictures {
            Pictures::Shared(all) => Picture::Shared(bytemuck::cast_slice(all.whole())),
            // SAFETY: the caller's promise.
            Pictures::Own(room) => Picture::Own(bytemuck::cast_slice_mut(unsafe { room.of(worker) })),
        }
    }
}

/// The whole picture at the positions.
fn at_positions(of: &Winograd<'_>, engine: &Engine) -> Result<Scratch> {
    let (strips, tiles) = (of.squares().div_ceil(SIDE), of.depth_tiles());
    let position = position_len(strips, tiles);
    let mut picture = Scratch::new(1, POSITIONS * position / 2)?;
    let to: SharedMut<'_, bf16> = SharedMut::new(bytemuck::cast_slice_mut(picture.all()));
    let blocks = of.depths(DEPTH_TILES);
    engine.pool.run(strips * blocks.len(), |index, _| {
        let (strip, block) = (index / blocks.len(), &blocks[index % blocks.len()]);
        let first = block.start / DEPTH;
        engine.tier.run_rounding(TransformPicture {
            of,
            squares: strip * SIDE..((strip + 1) * SIDE).min(of.squares()),
            tiles: first..first + block.len.div_ceil(DEPTH),
            to,
            start: strip * tiles * TILE,
            position,
        });
    });
    Ok(picture)
}
