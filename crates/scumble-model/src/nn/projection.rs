//! A linear layer or a convolution: the one kind of module that adapters attach to.
//!
//! ```text
//! y = W x + b (+ add),  then every attached branch:  y <- branch(x, y)
//! ```
//!
//! A branch that changes the product itself (at most one) gets `W x` alone and adds bias and residual in the end.
//!
//! Weights are `[out, in]` for linear layers and `[out, kh, kw, in]` for convolutions. Branches are attached and
//! detached through `&self`: a model in use can change its adapters between two calls.

use std::sync::{Arc, PoisonError, RwLock};

use scumble_tensor::backend::Conv2dSpec;
use scumble_tensor::ops::conv2d::{conv2d, conv2d_of_enlarged};
use scumble_tensor::ops::linear;
use scumble_tensor::ops::upsample::upsample_nearest;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};

use super::branch::{Addends, Branch, Factors};
use super::observe::Tap;

/// What a projection computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `x [..., in]` -> `[..., out]`.
    Linear,
    /// `x [n, h, w, in]` -> `[n, oh, ow, out]`.
    Conv2d(Conv2dSpec),
}

/// See the module's text.
pub struct Projection {
    tap: Tap,
    kind: Kind,
    weight: Param,
    bias: Option<Param>,
    branches: RwLock<Arc<[Arc<dyn Branch>]>>,
}

impl Projection {
    /// A projection over existing parameters; errors when the shapes do not fit the kind.
    pub fn new(tap: Tap, kind: Kind, weight: Param, bias: Option<Param>) -> Result<Self> {
        let value = weight.value();
        let rank = match kind {
            Kind::Linear => 2,
            Kind::Conv2d(_) => 4,
        };
        if value.dims().len() != rank {
            return Err(shape_error("projection", "weight", format!("{rank} dimensions"), value.shape()));
        }
        if let Some(bias) = &bias
            && bias.value().dims() != [value.shape().first()]
        {
            return Err(shape_error(
                "projection",
                "bias",
                format!("[{}]", value.shape().first()),
                bias.value().shape(),
            ));
        }
        Ok(Self { tap, kind, weight, bias, branches: RwLock::new(Arc::from([])) })
    }

    /// The diffusers path within the model, such as `mid_block.attentions.0.transformer_blocks.0.attn1.to_q`.
    pub fn path(&self) -> &str {
        self.tap.path()
    }

    /// Linear or convolution.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Input width (channels).
    pub fn in_features(&self) -> usize {
        self.weight.value().shape().last()
    }

    /// Output width (channels).
    pub fn out_features(&self) -> usize {
        self.weight.value().shape().first()
    }

    /// `[kh, kw]` of a convolution; `[1, 1]` for a linear layer.
    pub fn kernel(&self) -> [usize; 2] {
        match (self.kind, self.weight.value().dims()) {
            (Kind::Conv2d(_), &[_, kh, kw, _]) => [kh, kw],
            _ => [1, 1],
        }
    }

    /// The base weight, `[out, in]` or `[out, kh, kw, in]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The base bias, `[out]`.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }

    /// Adds a branch behind those already there; errors when it does not fit this projection, or when it is the second
    /// that changes the product.
    pub fn attach(&self, branch: Arc<dyn Branch>) -> Result<()> {
        branch.check(self)?;
        if branch.rescaling().is_some() && self.branches().iter().any(|other| other.rescaling().is_some()) {
            let expected = format!("one branch that rescales {}", self.path());
            return Err(shape_error("attach", "branches", expected, "a second one"));
        }
        let mut branches = self.branches.write().unwrap_or_else(PoisonError::into_inner);
        *branches = branches.iter().cloned().chain([branch]).collect();
        Ok(())
    }

    /// Removes a branch; whether it was there.
    pub fn detach(&self, branch: &Arc<dyn Branch>) -> bool {
        let mut branches = self.branches.write().unwrap_or_else(PoisonError::into_inner);
        let is_it = |other: &&Arc<dyn Branch>| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(branch));
        let kept: Arc<[_]> = branches.iter().filter(|other| !is_it(other)).cloned().collect();
        let found = kept.len() < branches.len();
        *branches = kept;
        found
    }

    /// Removes all branches.
    pub fn detach_all(&self) {
        *self.branches.write().unwrap_or_else(PoisonError::into_inner) = Arc::from([]);
    }

    /// The attached branches, in the order in which they act.
    pub fn branches(&self) -> Arc<[Arc<dyn Branch>]> {
        Arc::clone(&self.branches.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// `y = W x + b` and the branches.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        self.forward_add(tape, x, None)
    }

    /// `y = W x + b + add` and the branches: a residual comes for free with the product.
    pub fn forward_add(&self, tape: &Tape<'_>, x: &Var, add: Option<&Var>) -> Result<Var> {
        self.tap.with_residual(tape, add, |add| self.compute(tape, x, add))
    }

    /// A convolution of `x` enlarged to `size` by its nearest neighbours.
    pub fn forward_enlarged(&self, tape: &Tape<'_>, x: &Var, size: [usize; 2]) -> Result<Var> {
        match self.kind {
            Kind::Conv2d(spec) if self.branches().is_empty() => self.tap.with_residual(tape, None, |_| {
                let bias = self.bias.as_ref().map(|bias| tape.param(bias));
                conv2d_of_enlarged(tape, x, size, &tape.param(&self.weight), bias.as_ref(), spec)
            }),
            // Branches see the enlarged picture.
            _ => self.forward(tape, &upsample_nearest(tape, x, size)?),
        }
    }

    fn compute(&self, tape: &Tape<'_>, x: &Var, add: Option<&Var>) -> Result<Var> {
        let bias = self.bias.as_ref().map(|bias| tape.param(bias));
        let branches = self.branches();
        let addends = Addends { bias: bias.as_ref(), residual: add };
        let rescaling = branches.iter().find_map(|branch| branch.rescaling());
        // The branch that a linear layer's product takes along.
        let along = match (self.kind, rescaling) {
            (Kind::Linear, None) => branches.iter().position(|branch| branch.factors().is_some()),
            _ => None,
        };
        let mut y = match (rescaling, along.and_then(|at| branches[at].factors())) {
            (Some(branch), _) => {
                let product = self.product(tape, x, None, None)?;
                branch.output(tape, self, x, &product, addends)?
            }
            (None, Some(factors)) => self.product_with(tape, x, factors, addends)?,
            (None, None) => self.product(tape, x, bias.as_ref(), add)?,
        };
        for (at, branch) in branches.iter().enumerate() {
            if branch.rescaling().is_none() && along != Some(at) {
                y = branch.forward(tape, self, x, y)?;
            }
        }
        Ok(y)
    }

    /// `W x + bias + add` and a low-rank branch, of a linear layer.
    fn product_with(
        &self,
        tape: &Tape<'_>,
        x: &Var,
        factors: Factors<'_>,
        addends: Addends<'_>,
    ) -> Result<Var> {
        let weight = tape.param(&self.weight);
        let (down, up) = (&tape.param(factors.down), &tape.param(factors.up));
        let factors = linear::Factors { down, up, scale: factors.scale };
        linear::with_low_rank(tape, x, &weight, addends.bias, addends.residual, factors)
    }

    /// `W x + bias + add`, without branches.
    fn product(&self, tape: &Tape<'_>, x: &Var, bias: Option<&Var>, add: Option<&Var>) -> Result<Var> {
        let weight = tape.param(&self.weight);
        match self.kind {
            Kind::Linear => linear::linear(tape, x, &weight, bias, add),
            Kind::Conv2d(spec) => conv2d(tape, x, &weight, bias, add, spec),
        }
    }

    /// Folds a dense change into the base weight: `W <- W + delta`, summed in f32 whatever the weight's type.
    pub fn add_delta(&self, backend: &dyn Backend, delta: &Tensor) -> Result<()> {
        let weight = self.weight.value();
        if delta.dims() != weight.dims() {
            return Err(shape_error("add_delta", "delta", weight.shape(), delta.shape()));
        }
        let exact = backend.cast(&weight, DType::F32)?;
        let sum = backend.add_scaled(&exact, &backend.cast(delta, DType::F32)?, 1.0)?;
        self.weight.set(backend.cast(&sum, weight.dtype())?);
        Ok(())
    }
}

impl std::fmt::Debug for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Projection({}, {:?}, {})", self.path(), self.kind, self.weight.value().shape())
    }
}
