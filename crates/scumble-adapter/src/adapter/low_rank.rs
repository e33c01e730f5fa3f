//! The plain low-rank pair, which almost every adapter is made of.
//!
//! ```text
//! dW = (alpha / r) * up @ down      down [r, in] or [r, in, kh, kw]    up [out, r] or [out, r, 1, 1]
//! ```

use scumble_tensor::{DType, Tensor};

use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleKind};

/// The two factors of one module and their alpha.
#[derive(Clone, Debug)]
pub struct LowRankFactors {
    pub(super) down: Tensor,
    pub(super) up: Tensor,
    pub(super) alpha: f32,
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
            ModuleKind::Norm => (vec![rank, 1], vec![module.outputs, rank]),
        }
    }

    /// The same factors in exactly the shapes of `module`; a linear layer and a 1x1 convolution may stand for each
    /// other, as different generations of Stable Diffusion use either. `Err` says what was expected.
    pub fn shaped_for(&self, module: &Module) -> std::result::Result<Self, String> {
        if module.kind == ModuleKind::Norm {
            return Err("a norm takes no low-rank factors".into());
        }
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
}
