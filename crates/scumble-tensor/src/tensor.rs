//! Tensors: a shape, an element type and shared, contiguous storage.
//!
//! A tensor is cheap to clone (one reference count) and immutable while shared; [`Tensor::get_mut`] gives the
//! elements of an unshared one. Activations are channels-last: `[batch, height, width, channels]` and
//! `[batch, tokens, channels]` are the same memory, so [`Tensor::reshape`] is all the view there is.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use crate::dtype::{DType, Element};
use crate::error::{Error, Result, shape_error};
use crate::memory::HostBuffer;
use crate::shape::Shape;
use crate::with_element;

/// Where a tensor lives and a backend computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// Host memory.
    Cpu,
    /// The n-th NVIDIA device.
    Cuda(usize),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Memory of another device, owned by that device's backend.
pub trait DeviceBuffer: Any + Send + Sync {
    /// Which device.
    fn device(&self) -> Device;
    /// For the backend to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

enum Storage {
    Host(HostBuffer),
    Device(Box<dyn DeviceBuffer>),
}

struct Data {
    dtype: DType,
    storage: Storage,
    prepared: [OnceLock<Arc<dyn Any + Send + Sync>>; 2],
}

/// Which product a weight was prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// `y = x W^T` and convolutions.
    Forward,
    /// Gradients for the input: `dx = dy W`.
    Backward,
}

/// A contiguous array of numbers.
#[derive(Clone)]
pub struct Tensor {
    data: Arc<Data>,
    shape: Shape,
}

impl Tensor {
    fn from_storage(dtype: DType, storage: Storage, shape: Shape) -> Self {
        Self { data: Arc::new(Data { dtype, storage, prepared: Default::default() }), shape }
    }

    /// A host tensor over `buffer`; errors when the length is not the shape's.
    pub fn from_buffer(dtype: DType, buffer: HostBuffer, dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims)?;
        if buffer.as_bytes().len() != shape.numel() * dtype.size() {
            return Err(shape_error(
                "from_buffer",
                "bytes",
                shape.numel() * dtype.size(),
                buffer.as_bytes().len(),
            ));
        }
        Ok(Self::from_storage(dtype, Storage::Host(buffer), shape))
    }

    /// A tensor over device memory; the backend vouches for size and type.
    pub fn from_device(dtype: DType, buffer: Box<dyn DeviceBuffer>, dims: &[usize]) -> Result<Self> {
        Ok(Self::from_storage(dtype, Storage::Device(buffer), Shape::new(dims)?))
    }

    /// A host tensor of little-endian `bytes` as files hold them (any alignment).
    pub fn from_bytes(dtype: DType, bytes: &[u8], dims: &[usize]) -> Result<Self> {
        let mut buffer = HostBuffer::for_overwrite(bytes.len())?;
        buffer.as_mut_bytes().copy_from_slice(bytes);
        Self::from_buffer(dtype, buffer, dims)
    }

    /// A host tensor with a copy of `values`.
    pub fn from_slice<T: Element>(values: &[T], dims: &[usize]) -> Result<Self> {
        Self::from_bytes(T::DTYPE, bytemuck::cast_slice(values), dims)
    }

    /// A host tensor of zeros.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims)?;
        let buffer = HostBuffer::zeroed(shape.numel() * dtype.size())?;
        Ok(Self::from_storage(dtype, Storage::Host(buffer), shape))
    }

    /// A host tensor whose elements `fill` writes; it sees arbitrary content and must overwrite all of it.
    pub fn build<T: Element>(dims: &[usize], fill: impl FnOnce(&mut [T])) -> Result<Self> {
        let shape = Shape::new(dims)?;
        let mut buffer = HostBuffer::for_overwrite(shape.numel() * T::DTYPE.size())?;
        fill(bytemuck::cast_slice_mut(buffer.as_mut_bytes()));
        Ok(Self::from_storage(T::DTYPE, Storage::Host(buffer), shape))
    }

    /// As [`Tensor::build`], for a filling that can fail.
    pub fn try_build<T: Element>(dims: &[usize], fill: impl FnOnce(&mut [T]) -> Result<()>) -> Result<Self> {
        let shape = Shape::new(dims)?;
        let mut buffer = HostBuffer::for_overwrite(shape.numel() * T::DTYPE.size())?;
        fill(bytemuck::cast_slice_mut(buffer.as_mut_bytes()))?;
        Ok(Self::from_storage(T::DTYPE, Storage::Host(buffer), shape))
    }

    /// A scalar.
    pub fn scalar<T: Element>(value: T) -> Result<Self> {
        Self::from_slice(&[value], &[])
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype
    }

    /// Shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        match &self.data.storage {
            Storage::Host(_) => Device::Cpu,
            Storage::Device(buffer) => buffer.device(),
        }
    }

    /// The device buffer, for the backend that owns it.
    pub fn device_buffer(&self) -> Option<&dyn DeviceBuffer> {
        match &self.data.storage {
            Storage::Host(_) => None,
            Storage::Device(buffer) => Some(buffer.as_ref()),
        }
    }

    /// The same elements under other sizes.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims)?;
        if shape.numel() != self.numel() {
            return Err(shape_error("reshape", "sizes", format!("{} elements", self.numel()), shape));
        }
        Ok(Self { data: Arc::clone(&self.data), shape })
    }

    /// The raw bytes of a host tensor.
    pub fn bytes(&self) -> Result<&[u8]> {
        match &self.data.storage {
            Storage::Host(buffer) => Ok(buffer.as_bytes()),
            Storage::Device(buffer) => {
                Err(Error::NotOnHost { op: "read", device: buffer.device().to_string() })
            }
        }
    }

    /// The elements of a host tensor; errors when `T` is not its type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check_dtype("read", T::DTYPE)?;
        Ok(bytemuck::cast_slice(self.bytes()?))
    }

    /// The elements, writable, if no other tensor shares them; prepared forms are dropped.
    pub fn get_mut<T: Element>(&mut self) -> Result<Option<&mut [T]>> {
        self.check_dtype("write", T::DTYPE)?;
        let Some(data) = Arc::get_mut(&mut self.data) else { return Ok(None) };
        data.prepared = Default::default();
        match &mut data.storage {
            Storage::Host(buffer) => Ok(Some(bytemuck::cast_slice_mut(buffer.as_mut_bytes()))),
            Storage::Device(buffer) => {
                Err(Error::NotOnHost { op: "write", device: buffer.device().to_string() })
            }
        }
    }

    /// The elements of a host tensor of any type, converted.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype() == T::DTYPE {
            return Ok(self.as_slice::<T>()?.to_vec());
        }
        let bytes = self.bytes()?;
        with_element!(self.dtype(), S => {
            Ok(bytemuck::cast_slice::<u8, S>(bytes).iter().map(|&value| T::from_f64(Element::to_f64(value))).collect())
        })
    }

    /// The single element of a host tensor, converted.
    pub fn item<T: Element>(&self) -> Result<T> {
        match self.to_vec::<T>()?.as_slice() {
            [value] => Ok(*value),
            _ => Err(shape_error("item", "elements", 1, self.numel())),
        }
    }

    /// A host tensor converted to another element type (rounding to nearest); itself when it is that already.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        let bytes = self.bytes()?;
        with_element!(self.dtype(), S => with_element!(dtype, D => {
            let source = bytemuck::cast_slice::<u8, S>(bytes);
            let mut buffer = HostBuffer::for_overwrite(self.numel() * dtype.size())?;
            // Named by its trait: `half`'s own `from_f64` drops bits before it rounds.
            for (to, &from) in bytemuck::cast_slice_mut::<u8, D>(buffer.as_mut_bytes()).iter_mut().zip(source) {
                *to = <D as Element>::from_f64(Element::to_f64(from));
            }
            Self::from_buffer(dtype, buffer, self.dims())
        }))
    }

    /// A form of this tensor that a backend prepared once, such as a packed weight. The first caller's `make`
    /// wins; a tensor is prepared for one backend only, which is the one that holds its memory.
    pub fn prepared<P: Any + Send + Sync>(&self, kind: Prepared, make: impl FnOnce() -> P) -> Option<&P> {
        let slot = &self.data.prepared[kind as usize];
        slot.get_or_init(|| Arc::new(make())).downcast_ref()
    }

    /// Whether two tensors share their memory.
    pub fn shares_memory_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.data, &other.data)
    }

    /// Errors unless the element type is `expected`.
    pub fn check_dtype(&self, op: &'static str, expected: DType) -> Result<()> {
        if self.dtype() == expected {
            Ok(())
        } else {
            Err(Error::DType { op, what: "the tensor", expected, found: self.dtype() })
        }
    }

    /// The four sizes of a channels-last picture `[n, h, w, c]`.
    pub fn nhwc(&self, op: &'static str) -> Result<[usize; 4]> {
        <[usize; 4]>::try_from(self.dims()).map_err(|_| shape_error(op, "input", "[n, h, w, c]", self.shape))
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}, {}, {})", self.dtype(), self.shape, self.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn conversion_and_reshape() {
        let x = Tensor::from_slice(&[1.0f32, 2.5, -3.0, 4.0], &[2, 2]).unwrap();
        assert_eq!(x.reshape(&[4]).unwrap().to_vec::<f64>().unwrap(), [1.0, 2.5, -3.0, 4.0]);
        assert_eq!(x.to_dtype(DType::BF16).unwrap().as_slice::<bf16>().unwrap()[1].to_f32(), 2.5);
        assert!(x.reshape(&[3]).is_err());
        assert!(x.as_slice::<f64>().is_err());
    }

    /// Just above a tie between two bf16 numbers: dropping the last bits first would round it down.
    #[test]
    fn conversion_rounds_once() {
        let x =
            Tensor::from_slice(&[f32::from_bits(0x3f80_8001), f32::from_bits(0x3f80_8000)], &[2]).unwrap();
        assert_eq!(x.to_dtype(DType::BF16).unwrap().to_vec::<f32>().unwrap(), [1.007_812_5, 1.0]);
    }

    #[test]
    fn writing_needs_an_unshared_tensor() {
        let mut x = Tensor::zeros(DType::F32, &[3]).unwrap();
        let shared = x.clone();
        assert!(x.get_mut::<f32>().unwrap().is_none());
        drop(shared);
        x.get_mut::<f32>().unwrap().unwrap()[1] = 5.0;
        assert_eq!(x.as_slice::<f32>().unwrap(), [0.0, 5.0, 0.0]);
    }

    #[test]
    fn absurd_shapes_are_refused() {
        assert!(matches!(Tensor::zeros(DType::F32, &[usize::MAX, 2]), Err(Error::TooLarge { .. })));
        assert!(matches!(Shape::new(&[1; 9]), Err(Error::Rank { .. })));
    }
}
