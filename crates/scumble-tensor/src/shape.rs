//! Shapes: up to six sizes, outermost first. All tensors are contiguous, so a shape is all the layout there is.

use crate::error::{Error, Result};

/// The most dimensions a tensor can have (files hold nothing deeper).
pub const MAX_RANK: usize = 6;

/// The sizes of a contiguous tensor, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    sizes: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// Makes a shape; errors on more than [`MAX_RANK`] sizes or when the product overflows.
    pub fn new(dims: &[usize]) -> Result<Self> {
        if dims.len() > MAX_RANK {
            return Err(Error::Rank { rank: dims.len(), max: MAX_RANK });
        }
        dims.iter()
            .try_fold(1usize, |total, &size| total.checked_mul(size))
            .filter(|&total| total <= isize::MAX as usize / 8)
            .ok_or_else(|| Error::TooLarge { dims: dims.to_vec() })?;
        let mut sizes = [1; MAX_RANK];
        sizes[..dims.len()].copy_from_slice(dims);
        Ok(Self { sizes, rank: dims.len() })
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }

    /// Size of the innermost dimension (1 for a scalar).
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Size of the outermost dimension (1 for a scalar).
    pub fn first(&self) -> usize {
        self.dims().first().copied().unwrap_or(1)
    }

    /// Product of all sizes but the innermost: the rows of the tensor seen as a matrix.
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
