//! LoKr: a Kronecker product of a small and a large matrix, either of them whole or in factors (LyCORIS).
//!
//! ```text
//! dW = s * kron(w1, w2)      out = o1 * o2, in = i1 * i2      w1 [o1, i1]      w2 [o2, i2, kh, kw]
//! w1 whole or w1_a [o1, r] @ w1_b [r, i1]
//! w2 whole, or w2_a [o2, r] @ w2_b [r, i2 * kh * kw], or with a core t2 [r, r, kh, kw]:
//!    sum_ij t2[i, j, k] w2_a[i, o] w2_b[j, c],  then w2_a [r, o2] and w2_b [r, i2]
//! s = 1 when both are whole, whatever alpha says; otherwise alpha / r with the rank of a factorised one
//! ```

use scumble_tensor::{DType, Tensor};

use super::product;
use super::shapes::{check_float, dense, expect_dims, finite_alpha, invalid, matrix};
use crate::error::Result;
use crate::table::Module;

/// Names of the parts: whole, output side, input side, core.
pub(super) const W1: [&str; 4] = ["w1", "w1_a", "w1_b", "t1"];
pub(super) const W2: [&str; 4] = ["w2", "w2_a", "w2_b", "t2"];

/// One of the two matrices.
#[derive(Clone, Debug)]
pub enum KroneckerFactor {
    /// As it is: `[o, i]`, the second also `[o, i, kh, kw]`.
    Whole(Tensor),
    /// As a product `a [o, r] @ b [r, i * kh * kw]`.
    Pair {
        /// Output side.
        a: Tensor,
        /// Input side.
        b: Tensor,
    },
    /// As a Tucker product; the second matrix only.
    Tucker {
        /// `[r, o]`.
        a: Tensor,
        /// `[r, i]`.
        b: Tensor,
        /// `[r, r, kh, kw]`.
        core: Tensor,
    },
}

use KroneckerFactor::{Pair, Tucker, Whole};

impl KroneckerFactor {
    fn check(&self, module: &str, which: usize) -> Result<()> {
        let named = |part: &str| format!("w{which}{part}");
        match self {
            Whole(tensor) => {
                check_float(module, &named(""), tensor)?;
                if which == 1 || tensor.dims().len() != 4 {
                    matrix(module, &named(""), tensor)?;
                }
            }
            Pair { a, b } => {
                let (a_name, b_name) = (named("_a"), named("_b"));
                check_float(module, &a_name, a)?;
                check_float(module, &b_name, b)?;
                let ((_, r1), (r2, _)) = (matrix(module, &a_name, a)?, matrix(module, &b_name, b)?);
                if r1 != r2 {
                    return Err(invalid(
                        module,
                        format!("the ranks disagree: {a_name} {}, {b_name} {}", a.shape(), b.shape()),
                    ));
                }
            }
            Tucker { a, b, core } => {
                let (a_name, b_name) = (named("_a"), named("_b"));
                for (name, tensor) in [(&a_name, a), (&b_name, b), (&"t2".to_owned(), core)] {
                    check_float(module, name, tensor)?;
                }
                let ((r1, _), (r2, _)) = (matrix(module, &a_name, a)?, matrix(module, &b_name, b)?);
                match core.dims() {
                    &[c1, c2, _, _] if (c1, c2) == (r1, r2) => {}
                    _ => {
                        return Err(invalid(
                            module,
                            format!(
                                "the ranks disagree: {a_name} {}, {b_name} {}, t2 {}",
                                a.shape(),
                                b.shape(),
                                core.shape()
                            ),
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// `(rows, columns)` with the kernel in the columns.
    fn size(&self) -> (usize, usize) {
        match self {
            Whole(tensor) => (tensor.dims()[0], tensor.dims()[1..].iter().product()),
            Pair { a, b } => (a.dims()[0], b.dims()[1]),
            Tucker { a, b, core } => (a.dims()[1], b.dims()[1] * core.dims()[2] * core.dims()[3]),
        }
    }

    /// Rank, if it is in factors.
    fn rank(&self) -> Option<usize> {
        match self {
            Whole(_) => None,
            Pair { b, .. } | Tucker { b, .. } => Some(b.dims()[0]),
        }
    }

    fn values(&self) -> Result<Vec<f64>> {
        Ok(match self {
            Whole(tensor) => tensor.to_vec()?,
            Pair { a, b } => {
                product::matmul(&a.to_vec::<f64>()?, &b.to_vec::<f64>()?, a.dims()[1], b.dims()[1])
            }
            Tucker { a, b, core } => {
                let left = product::transpose(&a.to_vec::<f64>()?, a.dims()[1]);
                let ranks = [core.dims()[0], core.dims()[1]];
                product::tucker(&core.to_vec::<f64>()?, ranks, &left, &b.to_vec::<f64>()?)
            }
        })
    }

    /// Its tensors under these names (whole, a, b, core).
    pub(super) fn tensors(&self, names: [&'static str; 4]) -> Vec<(&'static str, &Tensor)> {
        let [whole, a_name, b_name, core_name] = names;
        match self {
            Whole(tensor) => vec![(whole, tensor)],
            Pair { a, b } => vec![(a_name, a), (b_name, b)],
            Tucker { a, b, core } => vec![(a_name, a), (b_name, b), (core_name, core)],
        }
    }

    pub(super) fn map_named(
        &self,
        [whole, a_name, b_name, core_name]: [&'static str; 4],
        f: &dyn Fn(&'static str, &Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        Ok(match self {
            Whole(tensor) => Whole(f(whole, tensor)?),
            Pair { a, b } => Pair { a: f(a_name, a)?, b: f(b_name, b)? },
            Tucker { a, b, core } => Tucker { a: f(a_name, a)?, b: f(b_name, b)?, core: f(core_name, core)? },
        })
    }
}

/// Both matrices of one module and their alpha.
#[derive(Clone, Debug)]
pub struct KroneckerFactors {
    pub(super) w1: KroneckerFactor,
    pub(super) w2: KroneckerFactor,
    pub(super) alpha: f32,
}

impl KroneckerFactors {
    /// Checks each matrix by itself; whether their product is a module's is [`super::ModuleFactors::shaped_for`]'s.
    pub fn new(module: &str, w1: KroneckerFactor, w2: KroneckerFactor, alpha: f32) -> Result<Self> {
        finite_alpha(module, alpha)?;
        if matches!(w1, Tucker { .. }) {
            return Err(invalid(module, "w1 has no kernel and so no core".to_owned()));
        }
        w1.check(module, 1)?;
        w2.check(module, 2)?;
        Ok(Self { w1, w2, alpha })
    }

    /// The small matrix.
    pub fn w1(&self) -> &KroneckerFactor {
        &self.w1
    }

    /// The large matrix.
    pub fn w2(&self) -> &KroneckerFactor {
        &self.w2
    }

    /// Alpha, which only counts when a matrix is in factors.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// Rank of the factorised matrix; `None` when both are whole.
    pub fn rank(&self) -> Option<usize> {
        self.w2.rank().or(self.w1.rank())
    }

    /// What the product is multiplied with at strength 1.
    pub fn scale(&self) -> f32 {
        self.rank().map_or(1.0, |rank| self.alpha / rank as f32)
    }

    /// Frobenius norm of the change: `|kron(w1, w2)| = |w1| |w2|`.
    pub fn norm(&self) -> Result<f64> {
        let norm = |factor: &KroneckerFactor| -> Result<f64> {
            Ok(factor.values()?.iter().map(|value| value * value).sum::<f64>().sqrt())
        };
        Ok(norm(&self.w1)? * norm(&self.w2)? * f64::from(self.scale()).abs())
    }

    /// The change as f32 `[out, in * kh * kw]`.
    pub fn delta(&self) -> Result<Tensor> {
        let ((rows1, columns1), (rows2, columns2)) = (self.w1.size(), self.w2.size());
        let product = product::kronecker(&self.w1.values()?, columns1, &self.w2.values()?, columns2);
        dense(&product, rows1 * rows2, f64::from(self.scale()))
    }

    /// The same factors if they are `module`'s; `Err` says what was expected.
    pub(super) fn shaped_for(&self, module: &Module) -> std::result::Result<Self, String> {
        let [kh, kw] = module.kernel();
        let ((rows1, columns1), (rows2, columns2)) = (self.w1.size(), self.w2.size());
        let (rows, columns) = (rows1.checked_mul(rows2), columns1.checked_mul(columns2));
        if rows != Some(module.outputs) || columns != Some(module.inputs * kh * kw) {
            return Err(format!(
                "its Kronecker product is {rows1} * {rows2} by {columns1} * {columns2}, the base wants {} by {}",
                module.outputs,
                module.inputs * kh * kw
            ));
        }
        let w2 = match &self.w2 {
            Whole(tensor) if module.is_conv() => {
                Whole(expect_dims("w2", tensor, &[rows2, columns2 / (kh * kw), kh, kw])?)
            }
            Whole(tensor) => Whole(expect_dims("w2", tensor, &[rows2, columns2])?),
            Tucker { a, b, core } => {
                let core = expect_dims("t2", core, &[core.dims()[0], core.dims()[1], kh, kw])?;
                Tucker { a: a.clone(), b: b.clone(), core }
            }
            pair => pair.clone(),
        };
        Ok(Self { w1: self.w1.clone(), w2, alpha: self.alpha })
    }

    pub(super) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let convert = |_: &'static str, tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(dtype)?) };
        let (w1, w2) = (self.w1.map_named(W1, &convert)?, self.w2.map_named(W2, &convert)?);
        Ok(Self { w1, w2, alpha: self.alpha })
    }
}
