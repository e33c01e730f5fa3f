//! Adafactor (Shazeer & Stern 2018) with a rate of its own: the second moment of a matrix is kept as a row and a column.
//!
//! ```text
//! b = 1 - t^-0.8        u = g^2 + 1e-30
//! r = b r + (1 - b) mean over columns of u        c = b c + (1 - b) mean over rows of u
//! x = g / sqrt(r c / mean(r))        for vectors: v = b v + (1 - b) u,  x = g / sqrt(v)
//! x <- x / max(1, rms(x))        p -= lr wd p        p -= lr x
//! ```
//!
//! Relative steps and parameter scaling are off, as is usual for fine-tuning. A parameter of more than two sizes counts as
//! the matrix of its first size and all others (PyTorch's takes the last two). State: `adafactor.step`,
//! `adafactor.r.<name>`, `adafactor.c.<name>`; of vectors `r` alone.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

use super::{Optimizer, host};
use crate::error::Result;

const DECAY: f64 = -0.8;
const EPS: f32 = 1e-30;

/// Adafactor with its factored moments.
pub struct Adafactor {
    weight_decay: f64,
    step: u64,
    moments: BTreeMap<String, [Vec<f32>; 2]>,
}

impl Adafactor {
    /// Fresh.
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, step: 0, moments: BTreeMap::new() }
    }
}

/// Rows and columns of a parameter as a matrix; one column for vectors.
fn sizes(param: &Param) -> [usize; 2] {
    let value = param.value();
    match value.dims() {
        [] | [_] => [value.numel(), 0],
        [rows, ..] => [*rows, value.numel() / rows.max(&1)],
    }
}

impl Optimizer for Adafactor {
    fn begin(&mut self) {
        self.step += 1;
    }

    fn update(
        &mut self,
        backend: &dyn Backend,
        param: &Param,
        gradient: &Tensor,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        let (mut values, gradient) = host::values(backend, param, gradient, scale)?;
        let [rows, columns] = sizes(param);
        let beta = (1.0 - (self.step as f64).powf(DECAY)) as f32;
        let entry = self.moments.entry(param.name().to_owned());
        let [r, c] = entry.or_insert_with(|| [vec![0.0; rows], vec![0.0; columns]]);
        let mut update = gradient;
        if columns == 0 {
            for (g, v) in update.iter_mut().zip(r) {
                *v = beta * *v + (1.0 - beta) * (*g * *g + EPS);
                *g /= v.sqrt();
            }
        } else {
            let mut by_column = vec![0f64; columns];
            for (row, r) in update.chunks_exact(columns).zip(r.iter_mut()) {
                let mut sum = 0f64;
                for (g, column) in row.iter().zip(&mut by_column) {
                    let square = f64::from(g * g + EPS);
                    sum += square;
                    *column += square;
                }
                *r = beta * *r + (1.0 - beta) * (sum / columns as f64) as f32;
            }
            for (c, sum) in c.iter_mut().zip(by_column) {
                *c = beta * *c + (1.0 - beta) * (sum / rows as f64) as f32;
            }
            let mean = r.iter().map(|&r| f64::from(r)).sum::<f64>() / rows as f64;
            for (row, &r) in update.chunks_exact_mut(columns).zip(r.iter()) {
                let r = 1.0 / (f64::from(r) / mean).sqrt();
                row.iter_mut().zip(c.iter()).for_each(|(g, &c)| *g *= r as f32 / c.sqrt());
            }
        }
        let step = lr / host::rms(&update).max(1.0);
        let kept = (1.0 - lr * self.weight_decay) as f32;
        values.iter_mut().zip(&update).for_each(|(value, &x)| *value = kept * *value - step as f32 * x);
        host::set(backend, param, &values)
    }

    fn state(&self, _: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        host::put(&mut state, "adafactor.step".to_owned(), &[self.step as i64])?;
        for (name, [r, c]) in &self.moments {
            host::put(&mut state, format!("adafactor.r.{name}"), r)?;
            if !c.is_empty() {
                host::put(&mut state, format!("adafactor.c.{name}"), c)?;
            }
        }
        Ok(state)
    }

    fn restore(&mut self, _: &dyn Backend, params: &[Param], state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.step = host::take_step(state, "adafactor.step")?;
        self.moments.clear();
        for param in params.iter().filter(|param| host::knows(state, "adafactor.r.", param)) {
            let [rows, columns] = sizes(param);
            let name = param.name();
            let r = host::take(state, &format!("adafactor.r.{name}"), rows)?;
            let c = match columns {
                0 => Vec::new(),
                _ => host::take(state, &format!("adafactor.c.{name}"), columns)?,
            };
            self.moments.insert(name.to_owned(), [r, c]);
        }
        Ok(())
    }
}
