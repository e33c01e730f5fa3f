//! AdamW whose moments take a byte an element (Dettmers et al. 2021): a quarter of AdamW's memory.
//!
//! A block of 256 moments is kept as its largest absolute value and for each element the index of the nearest entry of a
//! table of 256 numbers in -1 .. 1 (first moment) or 0 .. 1 (second), dense near zero ("dynamic" data type):
//!
//! ```text
//! table: for i in 0..7:  +-10^(i-6) * middles of 2^i (signed) or 2^(i+1) equal parts of 0.1 .. 1,   and 0, 1
//! each update: m, v <- table[code] * largest;  AdamW;  codes and largest of the new m, v
//! ```
//!
//! Parameters of fewer than 4096 elements keep f32 moments: nothing is saved there. State: `adamw8.step`, `adamw8.m.<name>`
//! and `.v.` u8 with `adamw8.m_max.` and `.v_max.` f32 a block; small ones `adamw8.m.` and `.v.` f32.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

use super::{Optimizer, host};
use crate::error::Result;

/// Elements that share a scale.
const BLOCK: usize = 256;
/// Smaller parameters are kept exactly.
const SMALLEST: usize = 4096;

/// The table of the dynamic data type, ascending.
fn table(signed: bool) -> Vec<f32> {
    let mut values = vec![0.0, 1.0];
    for i in 0..7u32 {
        let parts = if signed { 1usize << i } else { 1 << (i + 1) };
        let scale = 10f64.powi(i as i32 - 6);
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (part as f64 + 0.5) / parts as f64;
            values.push((scale * middle) as f32);
            if signed {
                values.push((-scale * middle) as f32);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    values
}

/// A moment in bytes.
struct Quantised {
    codes: Vec<u8>,
    largest: Vec<f32>,
}

impl Quantised {
    fn zeros(length: usize, table: &[f32]) -> Self {
        let code = nearest(table, 0.0);
        Self { codes: vec![code; length], largest: vec![0.0; length.div_ceil(BLOCK)] }
    }

    fn unpack(&self, block: usize, table: &[f32], into: &mut Vec<f32>) {
        let codes = self.codes.chunks(BLOCK).nth(block).unwrap_or_default();
        let largest = self.largest[block];
        into.clear();
        into.extend(codes.iter().map(|&code| table[usize::from(code)] * largest));
    }

    fn pack(&mut self, block: usize, table: &[f32], values: &[f32]) {
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        self.largest[block] = largest;
        let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
        let codes = self.codes[block * BLOCK..].iter_mut();
        codes.zip(values).for_each(|(code, value)| *code = nearest(table, value * inverse));
    }
}

/// Index of the nearest entry; of two equally near ones the lower.
fn nearest(table: &[f32], value: f32) -> u8 {
    let above = table.partition_point(|&entry| entry < value).min(table.len() - 1);
    let below = above.saturating_sub(1);
    let lower = (value - table[below]).abs() <= (table[above] - value).abs();
    (if lower { below } else { above }) as u8
}

enum Moments {
    Exact([Vec<f32>; 2]),
    Bytes([Quantised; 2]),
}

/// AdamW with moments in bytes.
pub struct AdamW8 {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    step: u64,
    tables: [Vec<f32>; 2],
    moments: BTreeMap<String, Moments>,
}

impl AdamW8 {
    /// Fresh.
    pub fn new(betas: [f64; 2], eps: f64, weight_decay: f64) -> Self {
        let tables = [table(true), table(false)];
        Self { betas, eps, weight_decay, step: 0, tables, moments: BTreeMap::new() }
    }
}

/// The numbers of one update.
struct Rule {
    b1: f32,
    b2: f32,
    eps: f32,
    kept: f32,
    rate: f32,
    root: f32,
}

impl Rule {
    fn apply(&self, values: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (i, value) in values.iter_mut().enumerate() {
            let g = gradient[i];
            m[i] = self.b1 * m[i] + (1.0 - self.b1) * g;
            v[i] = self.b2 * v[i] + (1.0 - self.b2) * g * g;
            *value = self.kept * *value - self.rate * m[i] / (v[i].sqrt() / self.root + self.eps);
        }
    }
}

impl Optimizer for AdamW8 {
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
        let ([b1, b2], t) = (self.betas, self.step as i32);
        let rule = Rule {
            b1: b1 as f32,
            b2: b2 as f32,
            eps: self.eps as f32,
            kept: (1.0 - lr * self.weight_decay) as f32,
            rate: (lr / (1.0 - b1.powi(t))) as f32,
            root: (1.0 - b2.powi(t)).sqrt() as f32,
        };
        let (tables, length) = (&self.tables, values.len());
        let moments = self.moments.entry(param.name().to_owned()).or_insert_with(|| {
            if length < SMALLEST {
                Moments::Exact([vec![0.0; length], vec![0.0; length]])
            } else {
                Moments::Bytes([0, 1].map(|i| Quantised::zeros(length, &tables[i])))
            }
        });
        match moments {
            Moments::Exact([m, v]) => rule.apply(&mut values, &gradient, m, v),
            Moments::Bytes([m, v]) => {
                let (mut m_block, mut v_block) = (Vec::new(), Vec::new());
                let blocks = values.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK)).enumerate();
                for (block, (values, gradient)) in blocks {
                    m.unpack(block, &tables[0], &mut m_block);
                    v.unpack(block, &tables[1], &mut v_block);
                    rule.apply(values, gradient, &mut m_block, &mut v_block);
                    m.pack(block, &tables[0], &m_block);
                    v.pack(block, &tables[1], &v_block);
                }
            }
        }
        host::set(backend, param, &values)
    }

    fn state(&self, _: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        host::put(&mut state, "adamw8.step".to_owned(), &[self.step as i64])?;
        for (name, moments) in &self.moments {
            for (index, kind) in ["m", "v"].into_iter().enumerate() {
                let key = format!("adamw8.{kind}.{name}");
                match moments {
                    Moments::Exact(exact) => host::put(&mut state, key, &exact[index])?,
                    Moments::Bytes(bytes) => {
                        host::put(&mut state, key, &bytes[index].codes)?;
                        let key = format!("adamw8.{kind}_max.{name}");
                        host::put(&mut state, key, &bytes[index].largest)?;
                    }
                }
            }
        }
        Ok(state)
    }

    fn restore(&mut self, _: &dyn Backend, params: &[Param], state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.step = host::take_step(state, "adamw8.step")?;
        self.moments.clear();
        for param in params.iter().filter(|param| host::knows(state, "adamw8.m.", param)) {
            let (name, length) = (param.name(), param.value().numel());
            let moments = if length < SMALLEST {
                let take = |kind: &str| host::take(state, &format!("adamw8.{kind}.{name}"), length);
                Moments::Exact([take("m")?, take("v")?])
            } else {
                let take = |kind: &str| {
                    let codes = host::take(state, &format!("adamw8.{kind}.{name}"), length)?;
                    let blocks = length.div_ceil(BLOCK);
                    let largest = host::take(state, &format!("adamw8.{kind}_max.{name}"), blocks)?;
                    Ok::<_, crate::TrainError>(Quantised { codes, largest })
                };
                Moments::Bytes([take("m")?, take("v")?])
            };
            self.moments.insert(name.to_owned(), moments);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_code_for_every_byte_and_reach_both_ends() {
        for (signed, lowest) in [(true, -0.993), (false, 0.0)] {
            let table = table(signed);
            assert_eq!(table.len(), 256);
            assert!((table[0] - lowest).abs() < 1e-3 && table[255] == 1.0, "{} {}", table[0], table[255]);
            for (index, &value) in table.iter().enumerate() {
                assert_eq!(usize::from(nearest(&table, value)), index);
            }
            assert_eq!((nearest(&table, -9.0), nearest(&table, 9.0)), (0, 255));
        }
    }
}
