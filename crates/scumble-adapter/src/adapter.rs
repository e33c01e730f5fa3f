//! An adapter in memory.
//!
//! For one module with weight `W [out, in]` (or `[out, in, kh, kw]`):
//!
//! ```text
//! W' = W + strength * (alpha / r) * up @ down      down [r, in] or [r, in, kh, kw]    up [out, r] or [out, r, 1, 1]
//! ```
//!
//! There is one scale rule, `alpha / r`. Dialects that have another (scale 1, or `alpha / sqrt(r)`) are turned into
//! it when read, so nothing behind the door has to know them. Tensors keep the type the file had.

use std::collections::BTreeMap;

use scumble_tensor::{DType, Tensor};

use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleKind, Tower};

/// The two factors of one module and their alpha.
#[derive(Clone, Debug)]
pub struct LowRankFactors {
    down: Tensor,
    up: Tensor,
    alpha: f32,
}

impl LowRankFactors {
    /// Checks that `down [r, in]` or `[r, in, kh, kw]` and `up [out, r]` or `[out, r, 1, 1]` make a product.
    pub fn new(module: &str, down: Tensor, up: Tensor, alpha: f32) -> Result<Self> {
        let fault = |what: String| AdapterError::Factors { module: module.into(), what };
        for (part, tensor) in [("down", &down), ("up", &up)] {
            if !tensor.dtype().is_float() {
                return Err(fault(format!("{part} is {}, expected a float type", tensor.dtype())));
            }
            if !matches!(tensor.dims().len(), 2 | 4) || tensor.numel() == 0 {
                return Err(fault(format!(
                    "{part} has shape {}, expected 2 or 4 sizes, none of them 0",
                    tensor.shape()
                )));
            }
        }
        if up.dims()[2..].iter().any(|&size| size != 1) {
            return Err(fault(format!("up has shape {}, expected [out, r] or [out, r, 1, 1]", up.shape())));
        }
        if down.dims()[0] != up.dims()[1] {
            return Err(fault(format!(
                "the ranks disagree: down {} has rank {}, up {} has rank {}",
                down.shape(),
                down.dims()[0],
                up.shape(),
                up.dims()[1]
            )));
        }
        if !alpha.is_finite() {
            return Err(fault(format!("alpha is {alpha}")));
        }
        Ok(Self { down, up, alpha })
    }

    /// Input side.
    pub fn down(&self) -> &Tensor {
        &self.down
    }

    /// Output side.
    pub fn up(&self) -> &Tensor {
        &self.up
    }

    /// Alpha of the scale `alpha / r`.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// Rank.
    pub fn rank(&self) -> usize {
        self.down.shape().first()
    }

    /// What the product is multiplied with at strength 1.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank() as f32
    }

    /// Sizes `(down, up)` that factors of `rank` have on `module`.
    pub fn shapes_for(module: &Module, rank: usize) -> (Vec<usize>, Vec<usize>) {
        match module.kind {
            ModuleKind::Linear => (vec![rank, module.inputs], vec![module.outputs, rank]),
            ModuleKind::Conv { kernel: [kh, kw] } => {
                (vec![rank, module.inputs, kh, kw], vec![module.outputs, rank, 1, 1])
            }
        }
    }

    /// The same factors in exactly the shapes of `module`; a linear layer and a 1x1 convolution may stand for each
    /// other, as different generations of Stable Diffusion use either. `Err` says what was expected.
    pub fn shaped_for(&self, module: &Module) -> std::result::Result<Self, String> {
        let (down, up) = Self::shapes_for(module, self.rank());
        let elements = |dims: &[usize]| dims.iter().product::<usize>();
        let fits = |tensor: &Tensor, dims: &[usize]| {
            tensor.dims()[1] == dims[1] && tensor.numel() == elements(dims) && tensor.dims()[0] == dims[0]
        };
        if !fits(&self.down, &down) {
            return Err(format!("down has shape {}, the base wants {down:?}", self.down.shape()));
        }
        if !fits(&self.up, &up) {
            return Err(format!("up has shape {}, the base wants {up:?}", self.up.shape()));
        }
        let reshaped = |tensor: &Tensor, dims: &[usize]| tensor.reshape(dims).map_err(|e| e.to_string());
        Ok(Self { down: reshaped(&self.down, &down)?, up: reshaped(&self.up, &up)?, alpha: self.alpha })
    }

    /// `(alpha / r) * up @ down` as f32 `[out, in * kh * kw]`: row `o` is the flattened OIHW row of the weight.
    pub fn delta(&self) -> Result<Tensor> {
        let (rank, outputs) = (self.rank(), self.up.shape().first());
        let columns = self.down.numel() / rank;
        let (up, down) = (self.up.to_vec::<f64>()?, self.down.to_vec::<f64>()?);
        let scale = f64::from(self.scale());
        Ok(Tensor::build::<f32>(&[outputs, columns], |delta| {
            let mut row = vec![0f64; columns];
            for (up_row, out_row) in up.chunks_exact(rank).zip(delta.chunks_exact_mut(columns)) {
                row.fill(0.0);
                for (&factor, down_row) in up_row.iter().zip(down.chunks_exact(columns)) {
                    row.iter_mut().zip(down_row).for_each(|(sum, &value)| *sum += factor * value);
                }
                out_row.iter_mut().zip(&row).for_each(|(out, &sum)| *out = (scale * sum) as f32);
            }
        })?)
    }

    /// The same function at scale 1: `alpha / r` is multiplied into `up` (in f32, then rounded to `up`'s type).
    pub fn with_scale_folded(&self, module: &str) -> Result<Self> {
        let scale = self.scale();
        if scale == 1.0 {
            return Ok(self.clone());
        }
        let scaled: Vec<f32> = self.up.to_vec::<f32>()?.into_iter().map(|value| value * scale).collect();
        let up = Tensor::from_slice(&scaled, self.up.dims())?.to_dtype(self.up.dtype())?;
        Self::new(module, self.down.clone(), up, self.rank() as f32)
    }

    /// Both factors in another element type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { down: self.down.to_dtype(dtype)?, up: self.up.to_dtype(dtype)?, alpha: self.alpha })
    }
}

/// What an adapter does to one module. Other families (LoHa, LoKr, DoRA, full difference) join here.
#[derive(Clone, Debug)]
pub enum ModuleFactors {
    /// A plain product of two factors.
    LowRank(LowRankFactors),
}

impl ModuleFactors {
    /// The low-rank pair, if that is what it is.
    pub fn low_rank(&self) -> Option<&LowRankFactors> {
        match self {
            ModuleFactors::LowRank(factors) => Some(factors),
        }
    }

    fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            ModuleFactors::LowRank(factors) => vec![("down", &factors.down), ("up", &factors.up)],
        }
    }
}

/// A set of changes to a base, with learned tokens and the file's own words about itself.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    /// By module path with tower prefix, such as `unet.mid_block.attentions.0.proj_in`.
    pub modules: BTreeMap<String, ModuleFactors>,
    /// Learned tokens: text to rows `[n, d]`.
    pub tokens: BTreeMap<String, Tensor>,
    /// Metadata of the file it came from, or for the file it goes to.
    pub metadata: BTreeMap<String, String>,
}

impl Adapter {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty() && self.tokens.is_empty()
    }

    /// Adds a low-rank pair.
    pub fn insert(&mut self, path: &str, down: Tensor, up: Tensor, alpha: f32) -> Result<()> {
        let factors = LowRankFactors::new(path, down, up, alpha)?;
        self.modules.insert(path.to_owned(), ModuleFactors::LowRank(factors));
        Ok(())
    }

    /// The low-rank pairs, in path order.
    pub fn low_rank(&self) -> impl Iterator<Item = (&str, &LowRankFactors)> {
        self.modules.iter().filter_map(|(path, factors)| Some((path.as_str(), factors.low_rank()?)))
    }

    /// Paths of one tower's modules.
    pub fn paths_of(&self, tower: Tower) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str).filter(move |path| Tower::of(path) == Some(tower))
    }

    /// The ranks that occur, ascending.
    pub fn ranks(&self) -> Vec<usize> {
        let ranks: std::collections::BTreeSet<usize> = self.low_rank().map(|(_, f)| f.rank()).collect();
        ranks.into_iter().collect()
    }

    /// Errors on the first NaN or infinity.
    pub fn check_finite(&self) -> Result<()> {
        for (path, factors) in &self.modules {
            for (part, tensor) in factors.tensors() {
                check_finite(path, part, tensor)?;
            }
        }
        self.tokens.iter().try_for_each(|(token, rows)| check_finite(token, "token", rows))
    }

    /// All factors in another element type; tokens stay, as they are few and every dialect keeps them in f32.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let modules = self
            .modules
            .iter()
            .map(|(path, factors)| match factors {
                ModuleFactors::LowRank(pair) => {
                    Ok((path.clone(), ModuleFactors::LowRank(pair.to_dtype(dtype)?)))
                }
            })
            .collect::<Result<_>>()?;
        Ok(Self { modules, tokens: self.tokens.clone(), metadata: self.metadata.clone() })
    }
}

fn check_finite(module: &str, part: &'static str, tensor: &Tensor) -> Result<()> {
    let count = tensor.to_vec::<f64>()?.iter().filter(|value| !value.is_finite()).count();
    if count == 0 { Ok(()) } else { Err(AdapterError::NotFinite { module: module.into(), part, count }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ones(dims: &[usize]) -> Tensor {
        Tensor::from_slice(&vec![1f32; dims.iter().product()], dims).unwrap()
    }

    #[test]
    fn delta_of_ones() {
        let factors = LowRankFactors::new("m", ones(&[4, 8]), ones(&[16, 4]), 16.0).unwrap();
        let delta = factors.delta().unwrap();
        assert_eq!(delta.dims(), [16, 8]);
        assert!(delta.as_slice::<f32>().unwrap().iter().all(|&value| value == 16.0));
    }

    #[test]
    fn scale_is_alpha_over_rank() {
        let factors = LowRankFactors::new("m", ones(&[16, 8]), ones(&[20, 16]), 3.0).unwrap();
        assert_eq!(factors.scale(), 0.1875);
        let folded = factors.with_scale_folded("m").unwrap();
        assert_eq!(folded.scale(), 1.0);
        assert_eq!(folded.delta().unwrap().bytes().unwrap(), factors.delta().unwrap().bytes().unwrap());
    }

    #[test]
    fn factors_that_make_no_product_are_refused() {
        let refused = |down: &[usize], up: &[usize]| {
            LowRankFactors::new("m", ones(down), ones(up), 1.0).unwrap_err().to_string()
        };
        assert!(refused(&[4, 8], &[16, 3]).contains("rank 3"));
        assert!(refused(&[4, 8, 3], &[16, 4]).contains("2 or 4 sizes"));
        assert!(refused(&[4, 8], &[16, 4, 3, 3]).contains("[out, r, 1, 1]"));
        let integers = Tensor::zeros(DType::I64, &[4, 8]).unwrap();
        assert!(LowRankFactors::new("m", integers, ones(&[16, 4]), 1.0).is_err());
        assert!(LowRankFactors::new("m", ones(&[4, 8]), ones(&[16, 4]), f32::NAN).is_err());
    }

    #[test]
    fn linear_factors_fit_a_convolution_of_one_pixel() {
        let factors = LowRankFactors::new("m", ones(&[4, 8]), ones(&[16, 4]), 4.0).unwrap();
        let mut module = Module {
            path: "unet.m".into(),
            kind: ModuleKind::Conv { kernel: [1, 1] },
            inputs: 8,
            outputs: 16,
        };
        assert_eq!(factors.shaped_for(&module).unwrap().down().dims(), [4, 8, 1, 1]);
        module.kind = ModuleKind::Conv { kernel: [3, 3] };
        assert!(factors.shaped_for(&module).is_err());
    }

    #[test]
    fn not_finite_values_are_named() {
        let mut adapter = Adapter::default();
        let up = Tensor::from_slice(&[1.0f32, f32::NAN], &[2, 1]).unwrap();
        adapter.insert("unet.m", ones(&[1, 3]), up, 1.0).unwrap();
        let message = adapter.check_finite().unwrap_err().to_string();
        assert!(message.contains("unet.m") && message.contains("up"), "{message}");
    }
}
