//! Merging by entries of the dense deltas: magnitude pruning, TIES and DARE.
//!
//! ```text
//! prune       of each delta, the `density` entries of largest magnitude stay (TIES, magnitude), or each stays with
//!             probability `density` and is divided by it (DARE)
//! magnitude, dare    sum of w_i times the pruned deltas
//! ties, dare-ties    the sign of the sum of the pruned deltas is elected per entry (0 counts as +); the w_i times the
//!                    entries of that sign are averaged over the inputs that have it
//! ```
//!
//! TIES: Yadav et al. 2023; DARE: Yu et al. 2023; both as PEFT's `*_svd` combinations compute them, so that weights and
//! densities mean the same here and there. One module is dense at a time and thread.

use scumble_tensor::rng::stream;
use scumble_tensor::{Backend, Tensor};

use super::{MergeOptions, Mode, Term};
use crate::adapter::{Change, LowRankFactors};
use crate::error::{AdapterError, Result};
use crate::linalg::sketch::{Keep, truncate};
use crate::merge::exact::to_factors;
use crate::rank::{ModuleLoss, RankRule};
use crate::table::Module;

/// Most rank that an energy may ask for on a dense change when nobody says another.
const MAX_RANK_BY_ENERGY: usize = 256;

/// Prunes, combines and approximates one module.
pub(super) fn combine(
    module: &Module,
    terms: &[Term<'_>],
    options: &MergeOptions,
    backend: &dyn Backend,
) -> Result<(Change, ModuleLoss)> {
    let mut deltas = Vec::with_capacity(terms.len());
    for term in terms {
        let Some(change) = term.change() else { continue };
        let mut delta = change.delta()?.to_vec::<f32>()?;
        match options.mode {
            Mode::Dare | Mode::DareTies => {
                let name = format!("dare.{}.{}", term.input, module.path);
                drop_at_random(&mut delta, options.density, options.seed, &name);
            }
            _ => keep_largest(&mut delta, options.density),
        }
        deltas.push((term.weight, delta));
    }
    let combined = match options.mode {
        Mode::Ties | Mode::DareTies => elect(&deltas),
        _ => sum(&deltas),
    };
    let dims = [module.outputs, module.weights() / module.outputs.max(1)];
    let combined = Tensor::from_slice(&combined, &dims)?;
    let (factors, loss) = approximate(module, &combined, options.rank, None, options.seed, backend)?;
    Ok((Change::LowRank(factors), loss))
}

/// The best factors of a dense change `[out, columns]` with at most the rank `at_most`; the error is measured on the
/// factors themselves.
pub(crate) fn approximate(
    module: &Module,
    delta: &Tensor,
    rule: RankRule,
    at_most: Option<usize>,
    seed: u64,
    backend: &dyn Backend,
) -> Result<(LowRankFactors, ModuleLoss)> {
    let most = module.max_rank().min(at_most.unwrap_or(MAX_RANK_BY_ENERGY));
    let keep = match rule {
        RankRule::Fixed(rank) => Keep::Rank(rank.min(module.max_rank()).min(at_most.unwrap_or(usize::MAX))),
        RankRule::Energy(fraction) => Keep::Energy { fraction, at_most: most },
        RankRule::Norm(fraction) => Keep::Energy { fraction: fraction * fraction, at_most: most },
        RankRule::Lossless | RankRule::Sum(_) | RankRule::Ratio(_) => {
            return Err(AdapterError::Factors {
                module: module.path.clone(),
                what: "a dense change has no small rank by itself; give a rank, or an energy or norm to keep"
                    .into(),
            });
        }
    };
    let found = truncate(delta, keep, stream(seed, &module.path), backend)?;
    let factors = to_factors(module, &found.up, &found.down, 1.0)?;
    let loss = ModuleLoss {
        path: module.path.clone(),
        rank_before: None,
        rank: factors.rank(),
        norm: backend.sum_squares(&backend.upload(delta)?)?.sqrt(),
        error: distance(delta, &factors, backend)?,
    };
    Ok((factors, loss))
}

/// Frobenius norm of `delta - scale up @ down`.
pub(crate) fn distance(delta: &Tensor, factors: &LowRankFactors, backend: &dyn Backend) -> Result<f64> {
    use scumble_tensor::DType::F32;
    use scumble_tensor::backend::MatMul;
    let rank = factors.rank();
    let up = factors.up().to_dtype(F32)?.reshape(&[factors.up().numel() / rank, rank])?;
    let down = factors.down().to_dtype(F32)?.reshape(&[rank, factors.down().numel() / rank])?;
    let (delta, up, down) = (backend.upload(delta)?, backend.upload(&up)?, backend.upload(&down)?);
    let rest =
        backend.matmul(MatMul { alpha: -factors.scale(), add: Some(&delta), ..MatMul::nn(&up, &down) })?;
    Ok(backend.sum_squares(&rest)?.sqrt())
}

/// Zeroes all but the `floor(density * n)` entries of largest magnitude; of equal ones the first stay.
pub fn keep_largest(values: &mut [f32], density: f64) {
    let count = (density * values.len() as f64) as usize;
    if count >= values.len() {
        return;
    }
    if count == 0 {
        return values.fill(0.0);
    }
    let mut magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    let (_, &mut threshold, _) = magnitudes.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    let above = values.iter().filter(|value| value.abs() > threshold).count();
    let mut of_threshold = count - above;
    for value in values {
        let magnitude = value.abs();
        if magnitude == threshold && of_threshold > 0 {
            of_threshold -= 1;
        } else if magnitude <= threshold {
            *value = 0.0;
        }
    }
}

/// Keeps each entry with probability `density` and divides it by that; drawn from a stream of the given name.
pub fn drop_at_random(values: &mut [f32], density: f64, seed: u64, name: &str) {
    if density >= 1.0 {
        return;
    }
    let draws = stream(seed, name).rand(values.len());
    for (value, draw) in values.iter_mut().zip(draws) {
        *value = if f64::from(draw) < density { rescaled(*value, density) } else { 0.0 };
    }
}

/// What stays is as much larger as there is less of it, so that the mean stays what it was.
fn rescaled(value: f32, density: f64) -> f32 {
    (f64::from(value) / density) as f32
}

fn sum(deltas: &[(f64, Vec<f32>)]) -> Vec<f32> {
    per_entry(deltas, |entries| entries.iter().map(|(weight, value)| weight * value).sum())
}

fn elect(deltas: &[(f64, Vec<f32>)]) -> Vec<f32> {
    per_entry(deltas, |entries| {
        let balance: f64 = entries.iter().map(|(_, value)| value).sum();
        let elected = if balance >= 0.0 { 1.0 } else { -1.0 };
        let agreeing = || entries.iter().filter(|(_, value)| value * elected > 0.0);
        let total: f64 = agreeing().map(|(weight, value)| weight * value).sum();
        total / agreeing().count().max(1) as f64
    })
}

/// One number for each entry from the inputs' `(weight, value)`.
fn per_entry(deltas: &[(f64, Vec<f32>)], rule: impl Fn(&[(f64, f64)]) -> f64) -> Vec<f32> {
    let len = deltas.first().map_or(0, |(_, delta)| delta.len());
    let mut entries = vec![(0.0, 0.0); deltas.len()];
    let combined = (0..len).map(|index| {
        for (entry, (weight, delta)) in entries.iter_mut().zip(deltas) {
            *entry = (*weight, f64::from(delta[index]));
        }
        rule(&entries) as f32
    });
    combined.collect()
}

#[cfg(test)]
mod tests {
    use scumble_model::files::{SafetensorsFile, TensorSource as _};

    use super::*;

    fn assert_near(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-5, "{what}, entry {index}: {found}, PEFT has {expected}");
        }
    }

    /// Numbers of PEFT's `merge_utils`, see `tools/goldens/merging.py`. DARE draws other entries there, so what PEFT drew
    /// is combined here.
    #[test]
    fn entries_are_pruned_and_combined_as_peft_does() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/merging.safetensors");
        let file = SafetensorsFile::open(std::path::Path::new(file)).unwrap();
        let facts: serde_json::Value = serde_json::from_str(&file.metadata()["facts"]).unwrap();
        let numbers = |key: &str| -> Vec<f64> { serde_json::from_value(facts[key].clone()).unwrap() };
        let tensor = |name: String| file.read(&name).unwrap().to_vec::<f32>().unwrap();
        for density in numbers("densities") {
            let golden = |mode: &str| tensor(format!("{density}.{mode}"));
            let (mut largest, mut drawn) = (Vec::new(), Vec::new());
            for (n, weight) in numbers("weights").into_iter().enumerate() {
                let delta = tensor(format!("{n}.delta"));
                let of_peft = golden(&format!("drawn.{n}"));
                let kept = delta.iter().zip(&of_peft).filter(|(_, drawn)| **drawn != 0.0);
                let (kept, theirs): (Vec<f32>, Vec<f32>) = kept.unzip();
                let mut ours = kept;
                // All that is kept is divided by the density, here as there.
                ours.iter_mut().for_each(|value| *value = rescaled(*value, density));
                assert_near(&ours, &theirs, "rescaled");
                drawn.push((weight, of_peft));
                let mut pruned = delta;
                keep_largest(&mut pruned, density);
                largest.push((weight, pruned));
            }
            for (mode, found) in [
                ("magnitude", sum(&largest)),
                ("ties", elect(&largest)),
                ("dare", sum(&drawn)),
                ("dare-ties", elect(&drawn)),
            ] {
                assert_near(&found, &golden(mode), &format!("{mode} at {density}"));
            }
        }
    }

    #[test]
    fn the_largest_stay() {
        let mut values = [0.5, -3.0, 1.0, -1.0, 0.0, 2.0];
        keep_largest(&mut values, 0.5);
        assert_eq!(values, [0.0, -3.0, 1.0, 0.0, 0.0, 2.0], "of equal ones the first");
        keep_largest(&mut values, 1.0);
        assert_eq!(values[1], -3.0);
        keep_largest(&mut values, 0.1);
        assert_eq!(values, [0.0; 6], "a tenth of six entries is none");
    }

    #[test]
    fn dropping_keeps_the_mean_and_the_seed() {
        let drop = |seed| {
            let mut values = vec![1f32; 20_000];
            drop_at_random(&mut values, 0.25, seed, "m");
            values
        };
        let values = drop(1);
        assert!(values.iter().all(|&value| value == 0.0 || value == 4.0));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        assert_eq!(drop(1), values);
        assert_ne!(drop(2), values);
    }

    #[test]
    fn the_elected_sign_is_averaged() {
        let deltas = [(1.0, vec![1.0, -2.0, 0.0, 1.0]), (0.5, vec![3.0, 1.0, -4.0, -1.0])];
        assert_eq!(elect(&deltas), [(1.0 + 1.5) / 2.0, -2.0, -2.0, 1.0]);
        assert_eq!(sum(&deltas), [2.5, -1.5, -2.0, 0.5]);
    }
}
