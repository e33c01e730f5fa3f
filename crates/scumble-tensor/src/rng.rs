//! Random numbers equal to PyTorch's CPU generator, and independent named streams of them.
//!
//! The engine is the 32-bit Mersenne Twister. How its words become numbers is PyTorch's:
//!
//! ```text
//! rand   f32: low 24 bits * 2^-24              f64: low 53 bits of (first << 32 | second) * 2^-53
//! randn, n >= 16: all uniforms first, then in blocks of 16, for j = 0..8:
//!     r = sqrt(-2 ln(1 - u[j])),  out[j] = r cos(2 pi u[j+8]),  out[j+8] = r sin(2 pi u[j+8]);
//!     when 16 does not divide n, the last 16 values are drawn again and overwritten
//! randn, n < 16: pairs of 53-bit uniforms, r = sqrt(-2 ln(1 - u2)), theta = 2 pi u1; the sine half is kept
//!     in the generator for the next short draw
//! ```
//!
//! Integers and uniforms are equal bit for bit; normals of the long path agree to about 1e-6, because PyTorch
//! uses vector approximations of ln, sin and cos there that differ between processors.

use crate::error::{Result, shape_error};
use crate::tensor::Tensor;

/// Words of Mersenne Twister state.
const WORDS: usize = 624;
/// Distance of the words that the twist combines.
const MIDDLE: usize = 397;
/// From this length on normals are made in blocks.
const BLOCK: usize = 16;
/// From this range on an integer takes two words (PyTorch 2.15; releases before switched at 2^32).
const WIDE_RANGE: u64 = 1 << 28;

/// All that a [`Generator`] is: enough to continue its sequence elsewhere, bit for bit.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorState {
    /// The 624 words.
    pub words: Vec<u32>,
    /// How many of the words are used up, 0 to 624.
    pub used: usize,
    /// The second normal of a pair, waiting for the next short draw.
    pub cached_normal: Option<f64>,
}

impl GeneratorState {
    /// Length of [`GeneratorState::to_bytes`].
    pub const BYTES: usize = 4 * WORDS + 4 + 1 + 8;

    /// Little-endian bytes: the words, `used` as u32, one byte "a normal is cached", that normal as f64.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        self.words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend((self.used as u32).to_le_bytes());
        bytes.push(u8::from(self.cached_normal.is_some()));
        bytes.extend(self.cached_normal.unwrap_or(0.0).to_le_bytes());
        bytes
    }

    /// The state that [`GeneratorState::to_bytes`] wrote; errors when the bytes are not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != Self::BYTES {
            return Err(shape_error("generator state", "bytes", Self::BYTES, bytes.len()));
        }
        let (words, rest) = bytes.split_at(4 * WORDS);
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let mut cached = [0; 8];
        cached.copy_from_slice(&rest[5..]);
        let cached_normal = match rest[4] {
            0 => None,
            1 => Some(f64::from_le_bytes(cached)),
            other => return Err(shape_error("generator state", "cached-normal flag", "0 or 1", other)),
        };
        let state = Self {
            words: words.chunks_exact(4).map(word).collect(),
            used: word(&rest[..4]) as usize,
            cached_normal,
        };
        state.check()?;
        Ok(state)
    }

    fn check(&self) -> Result<()> {
        if self.words.len() != WORDS {
            return Err(shape_error("generator state", "words", WORDS, self.words.len()));
        }
        if self.used > WORDS {
            return Err(shape_error("generator state", "used words", format!("0 to {WORDS}"), self.used));
        }
        Ok(())
    }
}

/// A sequence of random numbers, fixed by its seed.
#[derive(Clone, Debug)]
pub struct Generator {
    words: [u32; WORDS],
    used: usize,
    cached_normal: Option<f64>,
}

impl Generator {
    /// The generator that `torch.manual_seed(seed)` gives. Only the low 32 bits of the seed matter.
    pub fn new(seed: u64) -> Self {
        let mut words = [0u32; WORDS];
        words[0] = seed as u32;
        for j in 1..WORDS {
            let before = words[j - 1];
            words[j] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(j as u32);
        }
        Self { words, used: WORDS, cached_normal: None }
    }

    /// A generator whose whole state depends on every word of `key` (the Mersenne Twister's seeding by array).
    fn from_key(key: &[u32]) -> Self {
        let mut generator = Self::new(19_650_218);
        let words = &mut generator.words;
        let mut i = 1;
        for step in 0..WORDS.max(key.len()) {
            let j = step % key.len();
            words[i] = mixed(words, i, 1_664_525).wrapping_add(key[j]).wrapping_add(j as u32);
            i = next_mixed(words, i);
        }
        for _ in 1..WORDS {
            words[i] = mixed(words, i, 1_566_083_941).wrapping_sub(i as u32);
            i = next_mixed(words, i);
        }
        words[0] = 0x8000_0000;
        generator
    }

    /// A copy of the whole state.
    pub fn state(&self) -> GeneratorState {
        GeneratorState { words: self.words.to_vec(), used: self.used, cached_normal: self.cached_normal }
    }

    /// Continues where `state` was taken; errors when it is not a state.
    pub fn from_state(state: &GeneratorState) -> Result<Self> {
        state.check()?;
        let mut words = [0; WORDS];
        words.copy_from_slice(&state.words);
        Ok(Self { words, used: state.used, cached_normal: state.cached_normal })
    }

    /// The next 32 random bits.
    pub fn random(&mut self) -> u32 {
        if self.used == WORDS {
            self.twist();
        }
        let mut y = self.words[self.used];
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// The next 64 random bits, the first word above.
    pub fn random64(&mut self) -> u64 {
        let high = u64::from(self.random());
        high << 32 | u64::from(self.random())
    }

    fn twist(&mut self) {
        for k in 0..WORDS {
            let y = (self.words[k] & 0x8000_0000) | (self.words[(k + 1) % WORDS] & 0x7fff_ffff);
            let feedback = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[k] = self.words[(k + MIDDLE) % WORDS] ^ (y >> 1) ^ feedback;
        }
        self.used = 0;
    }

    fn uniform(&mut self) -> f32 {
        (self.random() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    fn uniform_f64(&mut self) -> f64 {
        (self.random64() & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `n` uniform numbers in [0, 1).
    pub fn rand(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform()).collect()
    }

    /// `n` uniform numbers in [0, 1) of 53 bits.
    pub fn rand_f64(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.uniform_f64()).collect()
    }

    /// `n` normal numbers of mean 0 and variance 1.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.paired_normal() as f32).collect();
        }
        let mut values = self.rand(n);
        values.chunks_exact_mut(BLOCK).for_each(normals_in_place);
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut values[n - BLOCK..];
            tail.iter_mut().for_each(|value| *value = self.uniform());
            normals_in_place(tail);
        }
        values
    }

    /// `n` normal numbers in double precision: a sequence of its own from 16 values on, as in PyTorch.
    pub fn randn_f64(&mut self, n: usize) -> Vec<f64> {
        if n < BLOCK {
            return (0..n).map(|_| self.paired_normal()).collect();
        }
        let mut values = self.rand_f64(n);
        values.chunks_exact_mut(BLOCK).for_each(normals_in_place_f64);
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut values[n - BLOCK..];
            tail.iter_mut().for_each(|value| *value = self.uniform_f64());
            normals_in_place_f64(tail);
        }
        values
    }

    /// A host tensor of shape `dims` filled by [`Generator::randn`] in memory order.
    pub fn randn_tensor(&mut self, dims: &[usize]) -> Result<Tensor> {
        let n = crate::shape::Shape::new(dims)?.numel();
        Tensor::from_slice(&self.randn(n), dims)
    }

    fn paired_normal(&mut self) -> f64 {
        if let Some(second) = self.cached_normal.take() {
            return second;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.cached_normal = Some(radius * theta.sin());
        radius * theta.cos()
    }

    /// `n` integers from `low` up to, not including, `high`; errors when there is none.
    pub fn randint(&mut self, low: i64, high: i64, n: usize) -> Result<Vec<i64>> {
        if low >= high {
            return Err(shape_error("randint", "range", "low < high", format!("{low}..{high}")));
        }
        let range = high.wrapping_sub(low) as u64;
        let below = |generator: &mut Self| match range >= WIDE_RANGE {
            true => generator.random64() % range,
            false => u64::from(generator.random()) % range,
        };
        Ok((0..n).map(|_| low.wrapping_add(below(self) as i64)).collect())
    }

    /// The numbers 0 to n-1 in random order. Equal to PyTorch's below 2^32 / 20 numbers.
    pub fn randperm(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..n.saturating_sub(1) {
            order.swap(i, i + self.random() as usize % (n - i));
        }
        order
    }
}

/// One word of the seeding by array, stirred with the word before it.
fn mixed(words: &[u32; WORDS], i: usize, factor: u32) -> u32 {
    let before = words[i - 1];
    words[i] ^ (before ^ (before >> 30)).wrapping_mul(factor)
}

/// Where the seeding goes on; past the end the last word is carried to the front.
fn next_mixed(words: &mut [u32; WORDS], i: usize) -> usize {
    if i + 1 < WORDS {
        return i + 1;
    }
    words[0] = words[WORDS - 1];
    1
}

/// Turns 16 uniforms into 16 normals. The angle is rounded to f32 as PyTorch does; the functions are exact.
fn normals_in_place(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let log = f64::from(1.0 - *a).ln() as f32;
        let radius = (-2.0 * log).sqrt();
        let theta = f64::from(2.0 * std::f32::consts::PI * *b);
        *a = radius * theta.cos() as f32;
        *b = radius * theta.sin() as f32;
    }
}

fn normals_in_place_f64(block: &mut [f64]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * *b;
        *a = radius * theta.cos();
        *b = radius * theta.sin();
    }
}

/// The stream `name` of a run's `seed`: independent of every other name and seed, so that drawing more from one
/// purpose (say noise) never moves another (say the order of the pictures).
pub fn stream(seed: u64, name: &str) -> Generator {
    stream_at(seed, name, 0)
}

/// As [`stream`], the `index`-th of a family (say one per step or per picture).
///
/// The key is 192 bits: seed, a 64-bit hash of the name, and index, all of which reach the whole state. These
/// sequences are not those of `manual_seed`; where a seed must give PyTorch's numbers, use [`Generator::new`].
pub fn stream_at(seed: u64, name: &str, index: u64) -> Generator {
    // FNV-1a over the name's bytes.
    let name = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    Generator::from_key(&[halves(seed), halves(name), halves(index)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The largest difference between PyTorch's vector approximations and exact functions that was observed.
    const LONG_NORMAL_TOLERANCE: f64 = 1.5e-6;

    fn check_call(generator: &mut Generator, call: &Value) {
        let (op, n) = (call["op"].as_str().unwrap(), call["arg"].as_u64().unwrap() as usize);
        let floats = || call["out"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
        let integers = || call["out"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap());
        match op {
            "rand" => {
                assert_eq!(generator.rand(n), floats().map(|v| v as f32).collect::<Vec<_>>(), "{call}")
            }
            "rand_f64" => assert_eq!(generator.rand_f64(n), floats().collect::<Vec<_>>(), "{call}"),
            "randn" => {
                for (ours, theirs) in generator.randn(n).into_iter().zip(floats()) {
                    let tolerance = if n < BLOCK { 1e-7 * theirs.abs() } else { LONG_NORMAL_TOLERANCE };
                    assert!((f64::from(ours) - theirs).abs() <= tolerance, "{ours} {theirs} {call}");
                }
            }
            "randn_f64" => {
                for (ours, theirs) in generator.randn_f64(n).into_iter().zip(floats()) {
                    assert!((ours - theirs).abs() <= 1e-15 * theirs.abs().max(1.0), "{ours} {theirs}");
                }
            }
            "randperm" => assert_eq!(
                generator.randperm(n).into_iter().map(|v| v as i64).collect::<Vec<_>>(),
                integers().collect::<Vec<_>>()
            ),
            _ => {
                let range = op.strip_prefix("randint(").and_then(|r| r.strip_suffix(')')).unwrap();
                let (low, high) = range.split_once(',').unwrap();
                let ours = generator.randint(low.parse().unwrap(), high.parse().unwrap(), n).unwrap();
                assert_eq!(ours, integers().collect::<Vec<_>>(), "{call}");
            }
        }
    }

    #[test]
    fn every_case_and_sequence_of_the_torch_fixture() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/torch_rng.json");
        let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        for case in cases {
            check_call(&mut Generator::new(case["seed"].as_u64().unwrap()), case);
        }
        let sequences = fixture["sequences"].as_array().unwrap();
        for sequence in sequences {
            let mut generator = Generator::new(sequence["seed"].as_u64().unwrap());
            sequence["calls"].as_array().unwrap().iter().for_each(|call| check_call(&mut generator, call));
        }
        assert!(cases.len() == 84 && sequences.len() == 3);
    }

    #[test]
    fn the_engine_gives_the_published_words() {
        let mut generator = Generator::new(137);
        let words: Vec<u32> = (0..5).map(|_| generator.random()).collect();
        assert_eq!(words, [4053805790, 2173880614, 380293709, 1237255315, 2986595568]);
        generator.randn(8);
        assert_eq!(generator.random(), 2186503452);
    }

    #[test]
    fn latents_of_seed_42_sum_as_torch_sums_them() {
        let values = Generator::new(42).randn(4 * 64 * 64);
        let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
        let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        assert!((sum - 149.764800).abs() < 1e-3 && (squares - 16516.399872).abs() < 1e-2, "{sum} {squares}");
    }

    #[test]
    fn seeding_by_array_is_the_reference_one() {
        // First words that the authors' test program prints for the key 0x123 0x234 0x345 0x456.
        let mut generator = Generator::from_key(&[0x123, 0x234, 0x345, 0x456]);
        let words: Vec<u32> = (0..5).map(|_| generator.random()).collect();
        assert_eq!(words, [1067595299, 955945823, 477289528, 4107218783, 4228976476]);
    }

    #[test]
    fn a_state_continues_the_sequence_and_survives_bytes() {
        let mut generator = Generator::new(3);
        generator.randn(3);
        let bytes = generator.state().to_bytes();
        assert_eq!(bytes.len(), GeneratorState::BYTES);
        let mut other = Generator::from_state(&GeneratorState::from_bytes(&bytes).unwrap()).unwrap();
        assert_eq!(generator.randn(5), other.randn(5));
        assert_eq!(generator.randn(37), other.randn(37));
        assert!(GeneratorState::from_bytes(&bytes[1..]).is_err());
        let mut broken = bytes;
        broken[4 * WORDS + 1] = 0xff;
        assert!(GeneratorState::from_bytes(&broken).is_err());
    }

    #[test]
    fn streams_differ_by_seed_name_and_index_and_repeat() {
        let first = |seed, name, index| stream_at(seed, name, index).random64();
        let base = first(1, "noise", 0);
        assert_eq!(base, stream(1, "noise").random64());
        for other in
            [first(2, "noise", 0), first(1 << 32 | 1, "noise", 0), first(1, "order", 0), first(1, "noise", 1)]
        {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn integers_need_a_range_and_cover_all_of_i64() {
        let mut generator = Generator::new(0);
        assert!(generator.randint(3, 3, 1).is_err());
        assert!(generator.randint(i64::MIN, i64::MAX, 8).unwrap().iter().any(|&v| v < 0));
        assert!(generator.randint(-5, 5, 200).unwrap().iter().all(|v| (-5..5).contains(v)));
    }

    #[test]
    fn edges_of_the_integer_and_double_paths() {
        // Values printed by torch 2.15 for manual_seed(5).
        let mut generator = Generator::new(5);
        assert_eq!(generator.randn_f64(19)[0], 0.8235713931461853);
        let mut generator = Generator::new(5);
        assert_eq!(generator.randint(-7, (1 << 28) - 7, 3).unwrap(), [236996807, 80864950, 220060783]);
        assert_eq!(generator.randint(-7, (1 << 28) - 8, 3).unwrap(), [187307415, 180152401, 218661896]);
        let wide = generator.randint(-(1 << 62), 1 << 62, 2).unwrap();
        assert_eq!(wide, [-2954780387116892441, 2706812629452753307]);
        let mut generator = Generator::new(5);
        assert_eq!(generator.randperm(5), [1, 3, 0, 4, 2]);
        assert_eq!(generator.randperm(1), [0]);
        assert_eq!(generator.randperm(70000)[..4], [42006, 389, 36522, 4530]);
        assert_eq!(generator.rand(2), [0.29697847, 0.42745]);
    }
}
