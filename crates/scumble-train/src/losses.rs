//! The loss formulas on given tensors, for comparing implementations: what `probe losses` computes.
//!
//! ```text
//! mse                  mean of d^2,  d = pred - target
//! prior                first half of the batch: mse;  second half: prior weight * mse
//! masked_T<t>          mean of (w d)^2,  w = (m + 0.01)^t / its maximum over the batch,
//!                      m = the mask image, nearest-resized: pixel (y H / h, x W / w)
//! min_snr_<target>     mean over the batch of weight * mse,  weight = min(snr, 5) / snr  or  min(snr, 5) / (snr + 1)
//! pseudo_huber         mean of 2 c (sqrt(d^2 + c^2) - c),  c = 0.1
//! pseudo_smooth_l1     mean of 2 (sqrt(d^2 + c^2) - c)
//! ```
//!
//! Files are NCHW; the engine gets channels-last.

use std::sync::Arc;

use scumble_model::files::TensorSource;
use scumble_model::nn::{to_file_layout, to_memory_layout};
use scumble_tensor::backend::LossKind;
use scumble_tensor::ops::loss::loss;
use scumble_tensor::{Backend, DType, Tape, Tensor};

use crate::error::{Result, TrainError};
use crate::masks;

/// Min-SNR's gamma and the c of the robust losses in the comparison's cases.
const GAMMA: f32 = 5.0;
const C: f32 = 0.1;

/// Computes all cases of a file: for each `<case>.pred` the loss, its gradient and what it was made from.
pub fn compute(
    backend: &Arc<dyn Backend>,
    file: &dyn TensorSource,
    prior_weight: f64,
) -> Result<Vec<(String, Tensor)>> {
    let mut results = Vec::new();
    for name in file.names() {
        if let Some(case) = name.strip_suffix(".pred") {
            let computed = Case { file, name: case, prior_weight }.compute(backend)?;
            results.extend(computed.into_iter().map(|(part, tensor)| (format!("{case}.{part}"), tensor)));
        }
    }
    if results.is_empty() {
        return Err(mismatch(&file.describe(), "tensors named `<case>.pred`", "none"));
    }
    Ok(results)
}

fn mismatch(what: &str, expected: &str, found: impl std::fmt::Display) -> TrainError {
    TrainError::Mismatch { what: what.into(), expected: expected.into(), found: found.to_string() }
}

struct Case<'a> {
    file: &'a dyn TensorSource,
    name: &'a str,
    prior_weight: f64,
}

impl Case<'_> {
    fn read(&self, part: &str) -> Result<Tensor> {
        let name = format!("{}.{part}", self.name);
        if self.file.info(&name).is_none() {
            return Err(mismatch(&self.file.describe(), &format!("a tensor `{name}`"), "none"));
        }
        Ok(self.file.read(&name)?.to_dtype(DType::F32)?)
    }

    fn compute(&self, backend: &Arc<dyn Backend>) -> Result<Vec<(&'static str, Tensor)>> {
        let (pred, target) = (self.read("pred")?, self.read("target")?);
        let &[n, _, h, w] = pred.dims() else {
            return Err(mismatch(&format!("`{}.pred`", self.name), "[n, c, h, w]", pred.shape()));
        };
        if target.dims() != pred.dims() || n == 0 {
            return Err(mismatch(
                &format!("`{}.target`", self.name),
                &pred.shape().to_string(),
                target.shape(),
            ));
        }
        let kind = match self.name {
            "pseudo_huber" => LossKind::PseudoHuber { c: C },
            "pseudo_smooth_l1" => LossKind::PseudoSmoothL1 { c: C },
            _ => LossKind::Mse,
        };
        let mut results = Vec::new();
        let mut pixel_weight = None;
        let mut share = vec![1.0 / n as f32; n];
        if let Some(temperature) = self.name.strip_prefix("masked_T") {
            let temperature = temperature
                .parse()
                .map_err(|_| mismatch(&format!("case `{}`", self.name), "masked_T<number>", temperature))?;
            let (mask, weight) = self.mask(temperature, [n, h, w])?;
            let squared: Vec<f32> = weight.as_slice::<f32>()?.iter().map(|w| w * w).collect();
            pixel_weight = Some(backend.upload(&Tensor::from_slice(&squared, &[n, h, w])?)?);
            results.extend([("mask_latent", mask), ("weight", weight)]);
        } else if let Some(target) = self.name.strip_prefix("min_snr_") {
            let weight = self.min_snr(target, n)?;
            share.iter_mut().zip(weight.as_slice::<f32>()?).for_each(|(share, w)| *share *= w);
            results.push(("weight", weight));
        } else if self.name == "prior" {
            if n % 2 != 0 {
                return Err(mismatch("`prior.pred`", "an even number of samples", n));
            }
            share = vec![2.0 / n as f32; n];
            share[n / 2..].iter_mut().for_each(|share| *share *= self.prior_weight as f32);
        } else if !matches!(self.name, "mse" | "pseudo_huber" | "pseudo_smooth_l1") {
            return Err(mismatch(
                &format!("case `{}`", self.name),
                "mse, prior, masked_T<number>, min_snr_epsilon, min_snr_v_prediction, pseudo_huber or \
                 pseudo_smooth_l1",
                "none of them",
            ));
        }
        let tape = Tape::recording(Arc::clone(backend));
        let (pred, leaf) = tape.watch(backend.upload(&to_memory_layout(&pred)?)?);
        let target = backend.upload(&to_memory_layout(&target)?)?;
        let each = loss(&tape, kind, &pred, &target, pixel_weight.as_ref())?;
        let total = weighted_sum(&backend.download(each.value())?, &share)?;
        let mut gradients = tape.backward(&each, backend.upload(&Tensor::from_slice(&share, &[n])?)?)?;
        let gradient = gradients.take(leaf).map_or_else(|| Tensor::zeros(DType::F32, pred.dims()), Ok)?;
        results.push(("loss", Tensor::scalar(total as f32)?));
        results.push(("grad_pred", to_file_layout(&backend.download(&gradient)?)?));
        Ok(results)
    }

    /// The mask at the latents' size and the weight made of it, both `[n, 1, h, w]`.
    fn mask(&self, temperature: f32, [n, h, w]: [usize; 3]) -> Result<(Tensor, Tensor)> {
        let image = self.read("mask_image")?;
        let &[images, 1, image_h, image_w] = image.dims() else {
            return Err(mismatch(&format!("`{}.mask_image`", self.name), "[n, 1, H, W]", image.shape()));
        };
        if images != n {
            return Err(mismatch(&format!("`{}.mask_image`", self.name), &format!("{n} masks"), images));
        }
        let nearest = |pixels: &[f32]| masks::nearest(pixels, [image_h, image_w], [h, w]);
        let pictures = image.as_slice::<f32>()?.chunks_exact((image_h * image_w).max(1));
        let mask: Vec<f32> = pictures.flat_map(nearest).collect();
        let weight = masks::original(&mask, temperature);
        Ok((Tensor::from_slice(&mask, &[n, 1, h, w])?, Tensor::from_slice(&weight, &[n, 1, h, w])?))
    }

    fn min_snr(&self, target: &str, n: usize) -> Result<Tensor> {
        let snr = self.read("snr")?;
        if snr.dims() != [n] {
            return Err(mismatch(&format!("`{}.snr`", self.name), &format!("[{n}]"), snr.shape()));
        }
        let more = match target {
            "epsilon" => 0.0,
            "v_prediction" => 1.0,
            other => {
                return Err(mismatch(&format!("case `{}`", self.name), "epsilon or v_prediction", other));
            }
        };
        let weight: Vec<f32> =
            snr.as_slice::<f32>()?.iter().map(|snr| snr.min(GAMMA) / (snr + more)).collect();
        Ok(Tensor::from_slice(&weight, &[n])?)
    }
}

/// `sum of share_i * loss_i`, in f64.
pub(crate) fn weighted_sum(each: &Tensor, share: &[f32]) -> Result<f64> {
    let each = each.to_vec::<f64>()?;
    Ok(each.iter().zip(share).map(|(loss, &share)| loss * f64::from(share)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_model::files::SafetensorsFile;
    use scumble_tensor::reference::ReferenceBackend;

    fn file() -> SafetensorsFile {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/traces/losses.safetensors");
        SafetensorsFile::open(path.as_ref()).unwrap()
    }

    #[test]
    fn golden_cases() {
        let file = file();
        let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
        let results = compute(&backend, &file, 0.7).unwrap();
        for (name, found) in &results {
            let expected = file.read(name).unwrap();
            assert_eq!(found.dims(), expected.dims(), "{name}");
            let (found, expected) = (found.to_vec::<f64>().unwrap(), expected.to_vec::<f64>().unwrap());
            let largest = expected.iter().fold(0f64, |largest, value| largest.max(value.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= 2e-6 * largest, "{name}: {found}, expected {expected}");
            }
        }
        let inputs = ["pred", "target", "snr", "mask_image"];
        let outputs = file.names().into_iter().filter(|name| !inputs.iter().any(|part| name.ends_with(part)));
        for name in outputs {
            assert!(results.iter().any(|(found, _)| *found == name), "{name} is not computed");
        }
    }

    #[test]
    fn an_unknown_case_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cases.safetensors");
        let tensor = Tensor::zeros(DType::F32, &[2, 4, 2, 2]).unwrap();
        let tensors = ["odd.pred", "odd.target"].map(|name| (name.to_owned(), tensor.clone()));
        scumble_model::files::write_safetensors(&path, &tensors, &Default::default()).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
        let error = compute(&backend, &file, 1.0).unwrap_err().to_string();
        assert!(error.contains("`odd`"), "{error}");
    }
}
