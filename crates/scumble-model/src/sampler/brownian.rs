//! A Brownian path whose increments depend on a seed alone, however often and in whatever order it is asked.
//!
//! ```text
//! W(t1) - W(t0) = sqrt(t1 - t0) n_root
//! over the left half [a, m] of [a, b]:   (m - a) / (b - a) W + sqrt((m - a)(b - m) / (b - a)) n
//! ```
//!
//! Intervals are halved until they end where the question does, all times rounded to six decimals. Every interval's `n`
//! comes from PyTorch's generator, seeded by its place in the tree through NumPy's `SeedSequence` (O'Neill's `seed_seq`
//! with a pool of 24 words). That is the dyadic tree of torchsde's `BrownianInterval`, which diffusers and k-diffusion
//! draw from, number by number.

use scumble_tensor::rng::Generator;

/// Words in the pool of seeds.
const POOL: usize = 24;
/// No path is halved more often: 2^-40 of any range of noise levels is far below the rounding.
const DEEPEST: u32 = 40;

/// See the module's text.
pub(super) struct BrownianPath {
    entropy: u64,
    start: f64,
    end: f64,
    /// The increment over all of it.
    whole: Vec<f32>,
}

/// A part of the path: a node of the tree of halves.
struct Part<'w> {
    start: f64,
    end: f64,
    key: u64,
    depth: u32,
    increment: &'w [f32],
}

impl BrownianPath {
    /// A path of `count` values from time `start` to `end`.
    pub(super) fn new(entropy: u64, start: f64, end: f64, count: usize) -> Self {
        let seed = seeds::<1>(entropy, None)[0];
        let spread = (end - start).max(0.0).sqrt();
        let whole = Generator::new(u64::from(seed)).randn(count);
        let whole = whole.into_iter().map(|n| (f64::from(n) * spread) as f32).collect();
        Self { entropy, start: rounded(start), end: rounded(end), whole }
    }

    /// The increment over all of it.
    pub(super) fn values(&self) -> &[f32] {
        &self.whole
    }

    /// `W(to) - W(from)`; what lies outside the path's range is cut off.
    pub(super) fn increment(&self, from: f64, to: f64) -> Vec<f32> {
        let [from, to] = [from, to].map(|time| rounded(time.clamp(self.start, self.end)));
        let mut sum = vec![0.0; self.whole.len()];
        let root = Part { start: self.start, end: self.end, key: 0, depth: 0, increment: &self.whole };
        self.add(&root, from, to, &mut sum);
        sum
    }

    fn add(&self, part: &Part<'_>, from: f64, to: f64, sum: &mut [f32]) {
        if to <= part.start || from >= part.end {
            return;
        }
        if from <= part.start && to >= part.end {
            sum.iter_mut().zip(part.increment).for_each(|(sum, value)| *sum += value);
            return;
        }
        let middle = rounded(0.5 * (part.end + part.start));
        if part.depth == DEEPEST || middle <= part.start || middle >= part.end {
            return; // as short as times can tell apart
        }
        let (before, after) = (middle - part.start, part.end - middle);
        let share = 1.0 / (part.end - part.start);
        let spread = (before * after * share).sqrt();
        let seed = seeds::<1>(self.entropy, Some([part.key as u32, part.depth]))[0];
        let noise = Generator::new(u64::from(seed)).randn(part.increment.len());
        let left = part.increment.iter().zip(&noise);
        let left = left.map(|(w, n)| (before * share * f64::from(*w) + spread * f64::from(*n)) as f32);
        let mut half: Vec<f32> = left.collect();
        let (key, depth) = (2 * part.key, part.depth + 1);
        let first = Part { start: part.start, end: middle, key, depth, increment: &half };
        self.add(&first, from, to, sum);
        half.iter_mut().zip(part.increment).for_each(|(half, whole)| *half = whole - *half);
        let second = Part { start: middle, end: part.end, key: key + 1, depth, increment: &half };
        self.add(&second, from, to, sum);
    }
}

/// To six decimals, exactly as Python's `round` does.
fn rounded(time: f64) -> f64 {
    // Through text: multiplying would round a second time.
    format!("{time:.6}").parse().unwrap_or(time)
}

/// `numpy.random.SeedSequence(entropy, spawn_key=place, pool_size=24).generate_state(N)`.
fn seeds<const N: usize>(entropy: u64, place: Option<[u32; 2]>) -> [u32; N] {
    let low = entropy as u32;
    let high = (entropy >> 32) as u32;
    let mut words = if high == 0 { vec![low] } else { vec![low, high] };
    if let Some(place) = place {
        words.resize(POOL, 0);
        words.extend(place);
    }
    let mut constant = 0x43b0_d7e5_u32;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(constant);
        value ^ (value >> 16)
    };
    let mix = |x: u32, y: u32| {
        let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
        mixed ^ (mixed >> 16)
    };
    let mut pool = [0u32; POOL];
    for (index, slot) in pool.iter_mut().enumerate() {
        *slot = hash(words.get(index).copied().unwrap_or(0));
    }
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            pool[to] = mix(pool[to], hash(pool[from]));
        }
    }
    for &word in words.iter().skip(POOL) {
        for slot in &mut pool {
            *slot = mix(*slot, hash(word));
        }
    }
    let mut constant = 0x8b51_f9dd_u32;
    let mut state = [0; N];
    for (index, out) in state.iter_mut().enumerate() {
        let value = pool[index % POOL] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        let value = value.wrapping_mul(constant);
        *out = value ^ (value >> 16);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_those_of_numpy() {
        let plain =
            [1376543887, 623213690, 436845524, 1186459840, 374999794, 470651428, 3263615037, 353548599];
        assert_eq!(seeds::<8>(7, None), plain);
        let placed = [653418702, 3677941020, 617691361, 2978381510];
        assert_eq!(seeds::<4>((1 << 40) + 5, Some([0, 1])), placed);
    }

    #[test]
    fn increments_are_those_of_torchsde() {
        let path = BrownianPath::new(7, 0.0291675, 14.6146, 16);
        let check = |from: f64, to: f64, expected: [f32; 4]| {
            for (ours, theirs) in path.increment(from, to).iter().zip(expected) {
                assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
            }
        };
        check(7.0, 14.6146, [0.6375, -0.5716, -2.8779, 4.2417]);
        check(3.0, 7.0, [-1.1649, -0.3001, -0.5508, 0.1553]);
    }

    #[test]
    fn increments_add_up_and_nothing_lies_outside() {
        let path = BrownianPath::new(3, 0.5, 2.0, 20);
        let whole = path.increment(0.0, 9.0);
        let parts = [path.increment(0.5, 0.7), path.increment(0.7, 1.9999), path.increment(1.9999, 2.0)];
        for (index, whole) in whole.iter().enumerate() {
            let sum: f32 = parts.iter().map(|part| part[index]).sum();
            assert!((sum - whole).abs() < 1e-5, "{sum} {whole}");
        }
        assert_eq!(path.increment(1.0, 1.0), [0.0; 20]);
        assert_eq!(BrownianPath::new(3, 1.0, 1.0, 4).increment(0.0, 2.0).len(), 4);
    }
}
