//! LoCon with a core (LyCORIS `use_tucker`): a convolution's low-rank change with the kernel in a third factor.
//!
//! ```text
//! dW[o, c, k] = (alpha / r) * sum_ij mid[i, j, k] up[o, i] down[j, c]
//! down [r, in, 1, 1]    mid [r, r, kh, kw]    up [out, r, 1, 1]
//! ```

use scumble_tensor::{DType, Tensor};

use super::product;
use super::shapes::{check_float, dense, expect_dims, finite_alpha, invalid, matrix};
use crate::error::Result;
use crate::table::Module;

/// The three factors of one convolution and their alpha.
#[derive(Clone, Debug)]
pub struct TuckerFactors {
    pub(super) down: Tensor,
    pub(super) mid: Tensor,
    pub(super) up: Tensor,
    pub(super) alpha: f32,
}

impl TuckerFactors {
    /// Checks that the three make a product.
    pub fn new(module: &str, down: Tensor, mid: Tensor, up: Tensor, alpha: f32) -> Result<Self> {
        for (part, tensor) in [("down", &down), ("mid", &mid), ("up", &up)] {
            check_float(module, part, tensor)?;
        }
        finite_alpha(module, alpha)?;
        let &[r1, r2, _, _] = mid.dims() else {
            return Err(invalid(module, format!("mid has shape {}, expected [r, r, kh, kw]", mid.shape())));
        };
        let (_, up_rank) = matrix(module, "up", &up)?;
        let (down_rank, _) = matrix(module, "down", &down)?;
        if (up_rank, down_rank) != (r1, r2) {
            return Err(invalid(
                module,
                format!("the ranks disagree: down {}, mid {}, up {}", down.shape(), mid.shape(), up.shape()),
            ));
        }
        Ok(Self { down, mid, up, alpha })
    }

    /// Input side, `[r, in, 1, 1]`.
    pub fn down(&self) -> &Tensor {
        &self.down
    }

    /// The core, `[r, r, kh, kw]`.
    pub fn mid(&self) -> &Tensor {
        &self.mid
    }

    /// Output side, `[out, r, 1, 1]`.
    pub fn up(&self) -> &Tensor {
        &self.up
    }

    /// Alpha of the scale `alpha / r`.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// Rank, which is `down`'s.
    pub fn rank(&self) -> usize {
        self.down.shape().first()
    }

    /// What the product is multiplied with at strength 1.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank() as f32
    }

    /// The change as f32 `[out, in * kh * kw]`.
    pub fn delta(&self) -> Result<Tensor> {
        let outputs = self.up.shape().first();
        let product = product::tucker(
            &self.mid.to_vec::<f64>()?,
            [self.mid.dims()[0], self.mid.dims()[1]],
            &self.up.to_vec::<f64>()?,
            &self.down.to_vec::<f64>()?,
        );
        dense(&product, outputs, f64::from(self.scale()))
    }

    /// The same factors if they are `module`'s; `Err` says what was expected.
    pub(super) fn shaped_for(&self, module: &Module) -> std::result::Result<Self, String> {
        let [kh, kw] = module.kernel();
        let (r1, r2) = (self.mid.dims()[0], self.mid.dims()[1]);
        Ok(Self {
            down: expect_dims("down", &self.down, &[r2, module.inputs, 1, 1])?,
            mid: expect_dims("mid", &self.mid, &[r1, r2, kh, kw])?,
            up: expect_dims("up", &self.up, &[module.outputs, r1, 1, 1])?,
            alpha: self.alpha,
        })
    }

    pub(super) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            down: self.down.to_dtype(dtype)?,
            mid: self.mid.to_dtype(dtype)?,
            up: self.up.to_dtype(dtype)?,
            alpha: self.alpha,
        })
    }
}
