//! LoHa: the elementwise product of two low-rank products, so that rank `r` reaches `r^2` (FedPara; LyCORIS).
//!
//! ```text
//! dW = (alpha / r) * (w1_a @ w1_b) * (w2_a @ w2_b)            w*_a [out, r]   w*_b [r, in * kh * kw]
//! with cores (Tucker), each of the two factors is
//!     sum_ij t[i, j, k] w_a[i, o] w_b[j, c]                   t [r, r, kh, kw]   w*_a [r, out]   w*_b [r, in]
//! ```

use scumble_tensor::{DType, Tensor};

use super::product;
use super::shapes::{check_float, dense, expect_dims, finite_alpha, invalid, matrix};
use crate::error::Result;
use crate::table::Module;

/// One of the two products.
#[derive(Clone, Debug)]
pub struct HadamardSide {
    /// `[out, r]`; with a core `[r, out]`.
    pub a: Tensor,
    /// `[r, in * kh * kw]`; with a core `[r, in]`.
    pub b: Tensor,
    /// The core, `[r, r, kh, kw]`.
    pub core: Option<Tensor>,
}

/// Both products of one module and their alpha.
#[derive(Clone, Debug)]
pub struct HadamardFactors {
    pub(super) sides: [HadamardSide; 2],
    pub(super) alpha: f32,
}

pub(super) const NAMES: [[&str; 3]; 2] = [["w1_a", "w1_b", "t1"], ["w2_a", "w2_b", "t2"]];

impl HadamardFactors {
    /// Checks that both products exist and are of one size.
    pub fn new(module: &str, sides: [HadamardSide; 2], alpha: f32) -> Result<Self> {
        finite_alpha(module, alpha)?;
        for (side, [a, b, core]) in sides.iter().zip(NAMES) {
            check_float(module, a, &side.a)?;
            check_float(module, b, &side.b)?;
            let ((a_rows, a_columns), (b_rows, _)) =
                (matrix(module, a, &side.a)?, matrix(module, b, &side.b)?);
            let inner = match &side.core {
                None => (a_columns, b_rows),
                Some(tensor) => {
                    check_float(module, core, tensor)?;
                    let &[r1, r2, _, _] = tensor.dims() else {
                        return Err(invalid(
                            module,
                            format!("{core} has shape {}, expected [r, r, kh, kw]", tensor.shape()),
                        ));
                    };
                    if r1 != a_rows || r2 != b_rows {
                        return Err(invalid(
                            module,
                            format!(
                                "the ranks disagree: {a} {}, {core} {}, {b} {}",
                                side.a.shape(),
                                tensor.shape(),
                                side.b.shape()
                            ),
                        ));
                    }
                    (r1, r1)
                }
            };
            if inner.0 != inner.1 {
                return Err(invalid(
                    module,
                    format!("the ranks disagree: {a} {}, {b} {}", side.a.shape(), side.b.shape()),
                ));
            }
        }
        let factors = Self { sides, alpha };
        if factors.side_size(0) != factors.side_size(1) {
            return Err(invalid(
                module,
                format!(
                    "its two products have sizes {:?} and {:?}",
                    factors.side_size(0),
                    factors.side_size(1)
                ),
            ));
        }
        Ok(factors)
    }

    /// `(outputs, columns)` of one product.
    fn side_size(&self, side: usize) -> (usize, usize) {
        let HadamardSide { a, b, core } = &self.sides[side];
        match core {
            None => (a.dims()[0], b.dims()[1]),
            Some(core) => (a.dims()[1], b.dims()[1] * core.dims()[2] * core.dims()[3]),
        }
    }

    /// The two products.
    pub fn sides(&self) -> &[HadamardSide; 2] {
        &self.sides
    }

    /// Alpha of the scale `alpha / r`.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// Rank, which is that of `w1_b`.
    pub fn rank(&self) -> usize {
        self.sides[0].b.shape().first()
    }

    /// What the product is multiplied with at strength 1.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank() as f32
    }

    fn product(side: &HadamardSide) -> Result<Vec<f64>> {
        let (a, b) = (side.a.to_vec::<f64>()?, side.b.to_vec::<f64>()?);
        Ok(match &side.core {
            None => product::matmul(&a, &b, side.a.dims()[1], side.b.dims()[1]),
            Some(core) => {
                let left = product::transpose(&a, side.a.dims()[1]);
                product::tucker(&core.to_vec::<f64>()?, [core.dims()[0], core.dims()[1]], &left, &b)
            }
        })
    }

    /// The change as f32 `[out, in * kh * kw]`.
    pub fn delta(&self) -> Result<Tensor> {
        let mut product = Self::product(&self.sides[0])?;
        let second = Self::product(&self.sides[1])?;
        product.iter_mut().zip(second).for_each(|(value, other)| *value *= other);
        dense(&product, self.side_size(0).0, f64::from(self.scale()))
    }

    /// The same factors if they are `module`'s; `Err` says what was expected.
    pub(super) fn shaped_for(&self, module: &Module) -> std::result::Result<Self, String> {
        let [kh, kw] = module.kernel();
        let mut sides = self.sides.clone();
        for (side, [a, b, core]) in sides.iter_mut().zip(NAMES) {
            match &side.core {
                None => {
                    let (r, columns) = (side.a.dims()[1], module.inputs * kh * kw);
                    side.a = expect_dims(a, &side.a, &[module.outputs, r])?;
                    side.b = expect_dims(b, &side.b, &[r, columns])?;
                }
                Some(tensor) => {
                    let (r1, r2) = (tensor.dims()[0], tensor.dims()[1]);
                    side.a = expect_dims(a, &side.a, &[r1, module.outputs])?;
                    side.b = expect_dims(b, &side.b, &[r2, module.inputs])?;
                    side.core = Some(expect_dims(core, tensor, &[r1, r2, kh, kw])?);
                }
            }
        }
        Ok(Self { sides, alpha: self.alpha })
    }

    pub(super) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let convert = |side: &HadamardSide| -> Result<HadamardSide> {
            Ok(HadamardSide {
                a: side.a.to_dtype(dtype)?,
                b: side.b.to_dtype(dtype)?,
                core: side.core.as_ref().map(|core| core.to_dtype(dtype)).transpose()?,
            })
        };
        Ok(Self { sides: [convert(&self.sides[0])?, convert(&self.sides[1])?], alpha: self.alpha })
    }
}
