//! How LoKr cuts a width in two: `n = small * large`, as LyCORIS chooses.
//!
//! Without a wish the two are as near to each other as `n`'s divisors allow. A wished-for factor that divides `n` is one of
//! them; otherwise the small one is the largest divisor up to the wish.

/// `[small, large]`; a prime gives `[1, n]`.
pub fn factorization(n: usize, wish: Option<usize>) -> [usize; 2] {
    if let Some(wish) = wish.filter(|&wish| wish > 0 && n.is_multiple_of(wish)) {
        return [wish.min(n / wish), wish.max(n / wish)];
    }
    let most = wish.unwrap_or(n);
    let divisors = (1..=n.isqrt()).filter(|&small| small <= most && n.is_multiple_of(small));
    let small = divisors.max().unwrap_or(1);
    [small, n / small]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that LyCORIS' function gives.
    #[test]
    fn as_lycoris() {
        for (n, wish, expected) in [
            (256, None, [16, 16]),
            (128, None, [8, 16]),
            (127, None, [1, 127]),
            (128, Some(4), [4, 32]),
            (320, None, [16, 20]),
            (320, Some(8), [8, 40]),
            (320, Some(80), [4, 80]),
            (320, Some(6), [5, 64]),
            (320, Some(7), [5, 64]),
            (768, None, [24, 32]),
            (1280, None, [32, 40]),
            (2560, Some(16), [16, 160]),
            (2560, None, [40, 64]),
            (12, None, [3, 4]),
            (1, None, [1, 1]),
            (5, Some(3), [1, 5]),
        ] {
            assert_eq!(factorization(n, wish), expected, "{n} {wish:?}");
        }
    }
}
