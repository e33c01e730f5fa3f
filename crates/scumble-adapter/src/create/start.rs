//! Where the factors of each kind begin.
//!
//! | kind | start | source |
//! |---|---|---|
//! | LoRA | `up` zero; `down` by [`Init`] | the original; kohya (Kaiming with a = sqrt 5); PEFT (`orthogonal`) |
//! | LoRA, principal | `down = sqrt(S) V^T`, `up = U sqrt(S)` of the leading values of `W / scale` | PiSSA, as PEFT |
//! | DoRA | as LoRA; magnitude = the norms of the base weight's rows | PEFT |
//! | LoHa | `w1_a` deviation 0.1, `w1_b` and `w2_b` 1, `w2_a` zero | LyCORIS |
//! | LoKr | `w1` and `w2_a` Kaiming, `w2` or `w2_b` zero | LyCORIS |
//!
//! So the change is zero at first, except for the principal start, whose first change does not count.

use std::sync::Arc;

use scumble_model::nn::{Modules, Projection, row_norms};
use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, DType, Tensor};

use super::{Init, KroneckerOptions, factorization};
use crate::adapter::{HadamardFactors, HadamardSide, KroneckerFactor, KroneckerFactors, LowRankFactors};
use crate::attach::Towers;
use crate::error::{AdapterError, Result};
use crate::linalg::Matrix;
use crate::linalg::qr::Qr;
use crate::linalg::sketch::{Keep, truncate};
use crate::merge::exact::to_factors;
use crate::select::Chosen;
use crate::table::Module;

/// A module of the base that an adapter is made for.
pub(super) struct OnBase<'b> {
    projection: &'b Arc<Projection>,
    backend: &'b dyn Backend,
}

impl<'b> OnBase<'b> {
    pub fn new(module: &Module, towers: Towers<'b>, backend: &'b dyn Backend) -> Result<Self> {
        let projection = towers.projection(&module.path).ok_or_else(|| AdapterError::WrongBase {
            faults: vec![format!("{}: the base has no such module", module.path)],
            guess: None,
        })?;
        Ok(Self { projection, backend })
    }

    /// The lengths of the weight's rows, `[out]`.
    pub fn norms(&self) -> Result<Tensor> {
        Ok(row_norms(self.projection, self.backend)?)
    }

    /// The pair whose scaled product is the best approximation of the weight.
    pub fn principal(&self, chosen: &Chosen<'_>, random: Generator) -> Result<LowRankFactors> {
        let weight = Modules::export(self.backend, self.projection.weight())?.to_dtype(DType::F32)?;
        let outputs = chosen.module.outputs;
        let weight = weight.reshape(&[outputs, weight.numel() / outputs.max(1)])?;
        let mut found = truncate(&weight, Keep::Rank(chosen.rank), random, self.backend)?;
        let scale = chosen.alpha / chosen.rank as f32;
        let share = 1.0 / f64::from(scale.abs()).sqrt();
        let full = |matrix: &Matrix| widened(matrix, chosen.rank);
        (found.up, found.down) = (full(&found.up), full(&found.down));
        found.up.scale(share * f64::from(scale.signum()));
        found.down.scale(share);
        to_factors(chosen.module, &found.up, &found.down, scale)
    }
}

/// A weight of a lower rank than asked for has fewer vectors: the rest is zero.
fn widened(matrix: &Matrix, columns: usize) -> Matrix {
    match columns.checked_sub(matrix.cols()) {
        None | Some(0) => matrix.first_cols(columns),
        Some(missing) => matrix.beside(&Matrix::zeros(matrix.rows(), missing)),
    }
}

/// Uniform within `+- 1 / sqrt(columns)`.
fn kaiming(random: &mut Generator, dims: &[usize]) -> Result<Tensor> {
    let bound = 1.0 / (dims.iter().skip(1).product::<usize>() as f32).sqrt();
    let values = random.rand(dims.iter().product()).into_iter().map(|value| (2.0 * value - 1.0) * bound);
    Ok(Tensor::from_slice(&values.collect::<Vec<f32>>(), dims)?)
}

fn normal(random: &mut Generator, dims: &[usize], deviation: f32) -> Result<Tensor> {
    let values = random.randn(dims.iter().product()).into_iter().map(|value| value * deviation);
    Ok(Tensor::from_slice(&values.collect::<Vec<f32>>(), dims)?)
}

fn zeros(dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::zeros(DType::F32, dims)?)
}

/// A low-rank pair that does nothing yet.
pub(super) fn pair(chosen: &Chosen<'_>, init: Init, random: &mut Generator) -> Result<LowRankFactors> {
    let (path, rank) = (&chosen.module.path, chosen.rank);
    let (down_dims, up_dims) = LowRankFactors::shapes_for(chosen.module, rank);
    let (down, up) = match init {
        Init::Normal => (normal(random, &down_dims, 1.0 / rank as f32)?, zeros(&up_dims)?),
        Init::Kaiming => (kaiming(random, &down_dims)?, zeros(&up_dims)?),
        Init::Orthogonal => orthogonal(chosen, random)?,
        Init::Principal => return Err(AdapterError::NeedsBase { module: path.clone() }),
    };
    LowRankFactors::new(path, down, up, chosen.alpha)
}

/// `down = Q_odd^T N / 10`, `up = M Q_even / 10` with random normal `N`, `M` and the rows of one orthogonal `Q`: what
/// `down` can say, `up` does not hear.
fn orthogonal(chosen: &Chosen<'_>, random: &mut Generator) -> Result<(Tensor, Tensor)> {
    let rank = chosen.rank;
    if !rank.is_multiple_of(2) {
        let what = format!("rank {rank}: the orthogonal start needs an even rank");
        return Err(AdapterError::Selection { what });
    }
    let (down_dims, up_dims) = LowRankFactors::shapes_for(chosen.module, rank);
    let columns = down_dims[1..].iter().product();
    let mut draw = |rows: usize, cols: usize| {
        let values = random.randn(rows * cols);
        Matrix::from_fn(rows, cols, |i, j| f64::from(values[i * cols + j]))
    };
    let identity = Matrix::from_fn(rank, rank, |i, j| f64::from(u8::from(i == j)));
    let q = Qr::new(draw(rank, rank)).apply(&identity);
    let rows = |first: usize| Matrix::from_fn(rank / 2, rank, |i, j| q.col(j)[2 * i + first]);
    let (mut down_transposed, mut up) =
        (draw(columns, rank / 2).times(&rows(0)), draw(chosen.module.outputs, rank / 2).times(&rows(1)));
    down_transposed.scale(0.1);
    up.scale(0.1);
    Ok((down_transposed.to_transposed_tensor(&down_dims)?, up.to_tensor(&up_dims)?))
}

/// Two products of which the second is zero.
pub(super) fn hadamard(chosen: &Chosen<'_>, random: &mut Generator) -> Result<HadamardFactors> {
    let (module, rank) = (chosen.module, chosen.rank);
    let columns = module.weights() / module.outputs.max(1);
    let (a, b) = ([module.outputs, rank], [rank, columns]);
    let first = HadamardSide { a: normal(random, &a, 0.1)?, b: normal(random, &b, 1.0)?, core: None };
    let second = HadamardSide { a: zeros(&a)?, b: normal(random, &b, 1.0)?, core: None };
    HadamardFactors::new(&module.path, [first, second], chosen.alpha)
}

/// Two matrices of which the second is zero.
pub(super) fn kronecker(
    chosen: &Chosen<'_>,
    options: KroneckerOptions,
    random: &mut Generator,
) -> Result<KroneckerFactors> {
    let (module, rank) = (chosen.module, chosen.rank);
    let [[o1, o2], [i1, i2]] = [module.outputs, module.inputs].map(|n| factorization(n, options.factor));
    let [kh, kw] = module.kernel();
    // LyCORIS keeps a matrix whole where a product would not be at least half as wide.
    let narrow = |o: usize, i: usize| !options.whole && 2 * rank < o.max(i);
    let w1 = match options.both && narrow(o1, i1) {
        true => KroneckerFactor::Pair { a: kaiming(random, &[o1, rank])?, b: kaiming(random, &[rank, i1])? },
        false => KroneckerFactor::Whole(kaiming(random, &[o1, i1])?),
    };
    let w2 = match narrow(o2, i2) {
        true => KroneckerFactor::Pair { a: kaiming(random, &[o2, rank])?, b: zeros(&[rank, i2 * kh * kw])? },
        false if module.is_conv() => KroneckerFactor::Whole(zeros(&[o2, i2, kh, kw])?),
        false => KroneckerFactor::Whole(zeros(&[o2, i2])?),
    };
    KroneckerFactors::new(&module.path, w1, w2, chosen.alpha)
}
