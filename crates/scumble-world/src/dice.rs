//! The world's only randomness: SplitMix64 (Steele, Lea & Flood 2014) over a key, so that every draw is a function of
//! seed, purpose and index.

/// A short sequence of random numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of `seed`, `purpose` and `index`; different purposes do not disturb each other.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut dice = Self(seed ^ 0x9e37_79b9_7f4a_7c15);
        for word in purpose.bytes().map(u64::from).chain([index]) {
            dice.0 = dice.bits() ^ word;
        }
        dice
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`; 0 for an empty range.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// One of several; the list must not be empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_every_part_of_the_key() {
        let first = |seed, purpose, index| Dice::new(seed, purpose, index).bits();
        let one = first(1, "scene", 5);
        assert_eq!(one, first(1, "scene", 5));
        for other in [first(2, "scene", 5), first(1, "scend", 5), first(1, "scene", 6)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn draws_are_even() {
        let mut dice = Dice::new(0, "even", 0);
        let mut seen = [0; 7];
        for _ in 0..7000 {
            seen[dice.below(7)] += 1;
        }
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
        assert_eq!(dice.below(0), 0);
    }
}
