//! A latent from its distribution, on the tape, and what the distribution costs (Kingma and Welling 2013).
//!
//! ```text
//! z  = mean + exp(l / 2) * noise                              l = log variance, clamped to -30..20
//! KL = weight * mean over latents of (mean^2 + exp(l) - 1 - l) / 2
//! ```
//!
//! Latents are small; both are computed on the host.

use scumble_tensor::{Backend, Result, Tape, Tensor, Var, shape_error};

/// Where log variances end.
const LIMITS: (f32, f32) = (-30.0, 20.0);

/// `moments [n, h, w, 2 c]` and host `noise [n, h, w, c]` -> `[n, h, w, c]`.
pub fn sample(tape: &Tape<'_>, moments: &Var, noise: &Tensor) -> Result<Var> {
    let (channels, values) = host(tape.backend(), moments.value())?;
    let mut dims = moments.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = channels;
    }
    if noise.dims() != dims.as_slice() {
        return Err(shape_error("variational sample", "noise", format!("{dims:?}"), noise.shape()));
    }
    let drawn = noise.as_slice::<f32>()?.to_vec();
    let z: Vec<f32> = pairs(&values, channels)
        .zip(&drawn)
        .map(|((mean, logvar), noise)| mean + (0.5 * clamp(logvar)).exp() * noise)
        .collect();
    let z = tape.backend().upload(&Tensor::from_slice(&z, &dims)?)?;
    let whole = moments.dims().to_vec();
    Ok(tape.record(&[moments], z, || {
        move |backend: &dyn Backend, d_z: &Tensor, _: &mut _| {
            let d_z = backend.download(d_z)?;
            let slope = |((_, logvar), noise): ((f32, f32), &f32)| {
                if inside(logvar) { 0.5 * (0.5 * logvar).exp() * noise } else { 0.0 }
            };
            let slopes = pairs(&values, channels).zip(&drawn).map(slope);
            let d = d_z.as_slice::<f32>()?.iter().zip(slopes).map(|(&d, slope)| (d, d * slope));
            Ok(vec![Some(joined(backend, d, channels, &whole)?)])
        }
    }))
}

/// `moments [n, h, w, 2 c]` -> `[n]`, the weighted divergence of each sample.
pub fn divergence(tape: &Tape<'_>, moments: &Var, weight: f32) -> Result<Var> {
    let (channels, values) = host(tape.backend(), moments.value())?;
    let n = moments.dims().first().copied().unwrap_or(0).max(1);
    let latents = (values.len() / 2 / n).max(1);
    let share = weight / latents as f32;
    let cost = |(mean, logvar): (f32, f32)| {
        let logvar = clamp(logvar);
        0.5 * (mean * mean + logvar.exp() - 1.0 - logvar)
    };
    let costs: Vec<f32> = pairs(&values, channels).map(cost).collect();
    let sums: Vec<f32> = costs.chunks(latents).map(|costs| share * costs.iter().sum::<f32>()).collect();
    let y = tape.backend().upload(&Tensor::from_slice(&sums, &[n])?)?;
    let whole = moments.dims().to_vec();
    Ok(tape.record(&[moments], y, || {
        move |backend: &dyn Backend, d_y: &Tensor, _: &mut _| {
            let d_y = backend.download(d_y)?.to_vec::<f32>()?;
            let slope = |(i, (mean, logvar)): (usize, (f32, f32))| {
                let d = d_y[i / latents] * share;
                (d * mean, if inside(logvar) { d * 0.5 * (logvar.exp() - 1.0) } else { 0.0 })
            };
            let d = pairs(&values, channels).enumerate().map(slope);
            Ok(vec![Some(joined(backend, d, channels, &whole)?)])
        }
    }))
}

fn clamp(logvar: f32) -> f32 {
    logvar.clamp(LIMITS.0, LIMITS.1)
}

fn inside(logvar: f32) -> bool {
    (LIMITS.0..=LIMITS.1).contains(&logvar)
}

/// Channels of a latent and the numbers.
fn host(backend: &dyn Backend, moments: &Tensor) -> Result<(usize, Vec<f32>)> {
    let channels = moments.shape().last() / 2;
    if channels == 0 || !moments.shape().last().is_multiple_of(2) {
        return Err(shape_error("variational sample", "moments", "[n, h, w, 2 c]", moments.shape()));
    }
    Ok((channels, backend.download(moments)?.to_vec::<f32>()?))
}

/// Mean and log variance of every latent, in order.
fn pairs(values: &[f32], channels: usize) -> impl Iterator<Item = (f32, f32)> + '_ {
    values.chunks_exact(2 * channels).flat_map(move |pixel| {
        let (means, logvars) = pixel.split_at(channels);
        means.iter().copied().zip(logvars.iter().copied())
    })
}

/// Gradients of means and log variances, laid out as the moments.
fn joined(
    backend: &dyn Backend,
    slopes: impl Iterator<Item = (f32, f32)>,
    channels: usize,
    dims: &[usize],
) -> Result<Tensor> {
    let mut values = vec![0.0; dims.iter().product()];
    for (i, (mean, logvar)) in slopes.enumerate() {
        let at = i / channels * 2 * channels + i % channels;
        values[at] = mean;
        values[at + channels] = logvar;
    }
    backend.upload(&Tensor::from_slice(&values, dims)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::reference::ReferenceBackend;
    use std::sync::Arc;

    const DIMS: [usize; 4] = [2, 1, 2, 4];

    fn moments() -> Vec<f32> {
        (0..16).map(|i| ((i * 7) as f32).sin()).collect()
    }

    /// Value of `sum(f * seed)` and, from the tape, its gradient.
    fn with_gradient(values: &[f32], f: impl Fn(&Tape<'_>, &Var) -> Result<Var>) -> (f64, Vec<f32>) {
        let tape = Tape::recording(Arc::new(ReferenceBackend));
        let (x, leaf) = tape.watch(Tensor::from_slice(values, &DIMS).unwrap());
        let y = f(&tape, &x).unwrap();
        let seed: Vec<f32> = (0..y.value().numel()).map(|i| 1.0 + i as f32 * 0.3).collect();
        let sum = y.value().to_vec::<f32>().unwrap().iter().zip(&seed).map(|(y, s)| f64::from(y * s)).sum();
        let seed = Tensor::from_slice(&seed, y.dims()).unwrap();
        let gradient = tape.backward(&y, seed).unwrap().get(leaf).unwrap().to_vec::<f32>().unwrap();
        (sum, gradient)
    }

    fn check(f: impl Fn(&Tape<'_>, &Var) -> Result<Var>) {
        let (_, gradient) = with_gradient(&moments(), &f);
        for i in 0..16 {
            let at = |step: f32| {
                let mut moved = moments();
                moved[i] += step;
                with_gradient(&moved, &f).0
            };
            let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((numeric - f64::from(gradient[i])).abs() < 2e-3, "{i}: {numeric} {}", gradient[i]);
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let noise =
            Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.1, 0.3, -0.7, 1.1, 0.9], &[2, 1, 2, 2]).unwrap();
        check(|tape, m| sample(tape, m, &noise));
        check(|tape, m| divergence(tape, m, 0.7));
    }

    #[test]
    fn a_standard_normal_distribution_costs_nothing() {
        let tape = Tape::inference(Arc::new(ReferenceBackend));
        let normal = Var::constant(Tensor::from_slice(&[0f32; 16], &DIMS).unwrap());
        assert_eq!(divergence(&tape, &normal, 1.0).unwrap().value().to_vec::<f32>().unwrap(), [0.0, 0.0]);
        let other = Var::constant(Tensor::from_slice(&[1f32; 16], &DIMS).unwrap());
        let cost = divergence(&tape, &other, 2.0).unwrap().value().to_vec::<f32>().unwrap()[0];
        assert!((cost - (std::f32::consts::E - 1.0)).abs() < 1e-5, "{cost}");
    }
}
