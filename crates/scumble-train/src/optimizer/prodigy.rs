//! Prodigy (Mishchenko & Defazio 2023): Adam that finds its rate itself, from how far the parameters have come.
//!
//! ```text
//! k = sqrt(1 - b2^t) / (1 - b1^t)        a = d lr k
//! n <- b3 n + sum over parameters of (d / d0) a <g, p0 - p>        b3 = sqrt(b2)
//! m <- b1 m + (1 - b1) d g        v <- b2 v + (1 - b2) d^2 g^2        s <- b3 s + (d^2 / d0) g
//! d <- max(d, d_coef n / |s|_1)
//! p -= a wd p        p -= a m / (sqrt(v) + d eps)
//! ```
//!
//! That is the published implementation with decoupled decay, bias correction and the safeguard for warm-ups (`s` without
//! `lr`). `lr` is a factor and stays at 1. An update that leaves `|s|` at 0, such as the first of a warm-up with its rate of 0,
//! changes nothing and does not count. The estimate is made of all parameters of a part together, so they change when the
//! last gradient was seen. State: `prodigy.step`, `prodigy.numbers` (d, n), and by name `prodigy.m.`,
//! `.v.`, `.s.`, `.p0.`.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

use super::{Optimizer, host};
use crate::error::Result;

/// The estimate that it begins with.
const D0: f64 = 1e-6;

struct Memory {
    m: Vec<f32>,
    v: Vec<f32>,
    s: Vec<f32>,
    p0: Vec<f32>,
}

/// Prodigy with its moments and its estimate.
pub struct Prodigy {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    d_coef: f64,
    step: u64,
    d: f64,
    numerator: f64,
    /// What the update under way adds to the numerator.
    added: f64,
    denominator: f64,
    memory: BTreeMap<String, Memory>,
    pending: Vec<(Param, f64)>,
}

impl Prodigy {
    /// Fresh.
    pub fn new(betas: [f64; 2], eps: f64, weight_decay: f64, d_coef: f64) -> Self {
        Self {
            betas,
            eps,
            weight_decay,
            d_coef,
            step: 0,
            d: D0,
            numerator: 0.0,
            added: 0.0,
            denominator: 0.0,
            memory: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// `k` of the update under way.
    fn correction(&self) -> f64 {
        let t = (self.step + 1) as i32;
        (1.0 - self.betas[1].powi(t)).sqrt() / (1.0 - self.betas[0].powi(t))
    }
}

impl Optimizer for Prodigy {
    fn begin(&mut self) {
        (self.added, self.denominator) = (0.0, 0.0);
        self.pending.clear();
    }

    fn update(
        &mut self,
        backend: &dyn Backend,
        param: &Param,
        gradient: &Tensor,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        let correction = self.correction();
        let (values, gradient) = host::values(backend, param, gradient, scale)?;
        let zeros = || vec![0f32; values.len()];
        let memory = self.memory.entry(param.name().to_owned()).or_insert_with(|| Memory {
            m: zeros(),
            v: zeros(),
            s: zeros(),
            p0: values.clone(),
        });
        let rate = self.d * lr;
        if lr > 0.0 {
            let ([b1, b2], b3, d) = (self.betas, self.betas[1].sqrt() as f32, self.d);
            let (mut inner, mut length) = (0f64, 0f64);
            for (i, &g) in gradient.iter().enumerate() {
                inner += f64::from(g) * f64::from(memory.p0[i] - values[i]);
                memory.m[i] = b1 as f32 * memory.m[i] + (d * (1.0 - b1)) as f32 * g;
                memory.v[i] = b2 as f32 * memory.v[i] + (d * d * (1.0 - b2)) as f32 * g * g;
                memory.s[i] = b3 * memory.s[i] + (d / D0 * d) as f32 * g;
                length += f64::from(memory.s[i].abs());
            }
            self.denominator += length;
            self.added += d / D0 * (rate * correction) * inner;
        }
        self.pending.push((param.clone(), rate));
        Ok(())
    }

    fn end(&mut self, backend: &dyn Backend) -> Result<()> {
        if self.denominator == 0.0 {
            return Ok(());
        }
        let correction = self.correction();
        self.step += 1;
        self.numerator = self.betas[1].sqrt() * self.numerator + self.added;
        self.d = self.d.max(self.d_coef * self.numerator / self.denominator);
        for (param, rate) in std::mem::take(&mut self.pending) {
            let Some(memory) = self.memory.get(param.name()) else { continue };
            let mut values = backend.download(&param.value())?.to_vec::<f32>()?;
            let step = rate * correction;
            let kept = (1.0 - step * self.weight_decay) as f32;
            let eps = (self.d * self.eps) as f32;
            for (i, value) in values.iter_mut().enumerate() {
                *value = kept * *value - step as f32 * memory.m[i] / (memory.v[i].sqrt() + eps);
            }
            host::set(backend, &param, &values)?;
        }
        Ok(())
    }

    fn effective_rate(&self, lr: f64) -> f64 {
        self.d * lr
    }

    fn state(&self, _: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        host::put(&mut state, "prodigy.step".to_owned(), &[self.step as i64])?;
        host::put(&mut state, "prodigy.numbers".to_owned(), &[self.d, self.numerator])?;
        for (name, memory) in &self.memory {
            host::put(&mut state, format!("prodigy.m.{name}"), &memory.m)?;
            host::put(&mut state, format!("prodigy.v.{name}"), &memory.v)?;
            host::put(&mut state, format!("prodigy.s.{name}"), &memory.s)?;
            host::put(&mut state, format!("prodigy.p0.{name}"), &memory.p0)?;
        }
        Ok(state)
    }

    fn restore(&mut self, _: &dyn Backend, params: &[Param], state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.step = host::take_step(state, "prodigy.step")?;
        if let [d, numerator] = host::take::<f64>(state, "prodigy.numbers", 2)?[..] {
            (self.d, self.numerator) = (d, numerator);
        }
        self.memory.clear();
        for param in params.iter().filter(|param| host::knows(state, "prodigy.m.", param)) {
            let take = |kind: &str| {
                host::take(state, &format!("prodigy.{kind}.{}", param.name()), param.value().numel())
            };
            let memory = Memory { m: take("m")?, v: take("v")?, s: take("s")?, p0: take("p0")? };
            self.memory.insert(param.name().to_owned(), memory);
        }
        Ok(())
    }
}
