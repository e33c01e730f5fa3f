//! In which order pictures are seen, and how each visit looks: pure functions of seed and visit number.
//!
//! Visits are numbered from 0 over the whole run; step `s` with batch size `b` makes visits `s b .. (s + 1) b`. A round is every
//! picture `repeats` times, shuffled:
//!
//! ```text
//! round = visit / (items * repeats),   item = permutation(seed, round)[visit mod (items * repeats)] mod items
//! ```
//!
//! Batches run on over the end of a round, so all are full. Crop, flip and text of a visit come from streams of their own, keyed
//! by (seed, visit). Nothing is remembered from step to step: batch size, threads and an interruption change no visit.

use scumble_tensor::rng::stream_at;

use super::Augmentation;

/// Which data set an order is for; each has its own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The pictures to learn.
    Instance,
    /// Pictures of the same kind of thing in general.
    Class,
}

/// One visit to one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Number of the visit in the whole run.
    pub visit: u64,
    /// Index into the data set's items.
    pub item: usize,
    /// Where the crop lies, across and down, 0 to 1; see [`crate::picture::Fit::anchor`].
    pub anchor: [f64; 2],
    /// Mirrored left to right.
    pub flip: bool,
    /// Which of the item's texts, uniform in 0 .. 1; see [`super::Caption::choose`].
    pub caption: f64,
}

/// The order of one data set in one run.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    seed: u64,
    role: Role,
    items: usize,
    repeats: usize,
    batch: usize,
    augmentation: Augmentation,
}

impl Order {
    /// An order over `items` pictures, `repeats` times each a round, `batch` a step. Zeros count as one (of no items there is no
    /// draw).
    pub fn new(
        seed: u64,
        role: Role,
        items: usize,
        repeats: usize,
        batch: usize,
        augmentation: Augmentation,
    ) -> Self {
        Self { seed, role, items, repeats: repeats.max(1), batch: batch.max(1), augmentation }
    }

    /// Visits in a round.
    pub fn round_length(&self) -> u64 {
        (self.items as u64).saturating_mul(self.repeats as u64)
    }

    /// The visits of a step, counted from 0; empty if there are no items. With gradient accumulation count forward passes.
    pub fn batch_at(&self, step: u64) -> Vec<Draw> {
        let first = step.wrapping_mul(self.batch as u64);
        if self.items == 0 {
            return Vec::new();
        }
        let mut permutation = (u64::MAX, Vec::new());
        (0..self.batch as u64)
            .map(|slot| {
                let visit = first.wrapping_add(slot);
                let (round, place) = (visit / self.round_length(), visit % self.round_length());
                if permutation.1.is_empty() || permutation.0 != round {
                    permutation = (round, self.permutation(round));
                }
                self.draw(visit, permutation.1[place as usize] % self.items)
            })
            .collect()
    }

    fn permutation(&self, round: u64) -> Vec<usize> {
        let name = match self.role {
            Role::Instance => "data.instance.order",
            Role::Class => "data.class.order",
        };
        stream_at(self.seed, name, round).randperm(self.round_length() as usize)
    }

    fn draw(&self, visit: u64, item: usize) -> Draw {
        let [crop, flip, caption] = match self.role {
            Role::Instance => ["data.instance.crop", "data.instance.flip", "data.instance.caption"],
            Role::Class => ["data.class.crop", "data.class.flip", "data.class.caption"],
        };
        let uniform = |name: &str| stream_at(self.seed, name, visit).rand_f64(2);
        let anchor = match uniform(crop)[..] {
            [x, y] if self.augmentation.random_crop => [x, y],
            _ => [0.5; 2],
        };
        let first = |name: &str| uniform(name).first().copied().unwrap_or_default();
        Draw {
            visit,
            item,
            anchor,
            flip: self.augmentation.flip && first(flip) < 0.5,
            caption: first(caption),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Augmentation = Augmentation { random_crop: true, flip: true };

    fn order(seed: u64, items: usize, repeats: usize, batch: usize) -> Order {
        Order::new(seed, Role::Instance, items, repeats, batch, ALL)
    }

    fn visits(order: Order, steps: u64) -> Vec<Draw> {
        (0..steps).flat_map(|step| order.batch_at(step)).collect()
    }

    #[test]
    fn every_round_sees_every_picture_equally_often() {
        let draws = visits(order(7, 5, 3, 1), 30);
        for round in draws.chunks(15) {
            let mut seen: Vec<usize> = round.iter().map(|d| d.item).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        }
        let items = |part: &[Draw]| part.iter().map(|d| d.item).collect::<Vec<_>>();
        assert_ne!(items(&draws[..15]), items(&draws[15..]), "rounds are shuffled differently");
    }

    #[test]
    fn batch_size_and_resuming_change_no_visit() {
        let one = visits(order(1, 7, 1, 1), 42);
        assert_eq!(one, visits(order(1, 7, 1, 3), 14));
        assert_eq!(one, visits(order(1, 7, 1, 42), 1));
        assert_eq!(one[30..33], order(1, 7, 1, 3).batch_at(10));
    }

    #[test]
    fn seeds_and_roles_differ_and_augmentation_is_independent() {
        let draws = visits(order(1, 9, 1, 3), 12);
        assert_ne!(draws, visits(order(2, 9, 1, 3), 12));
        assert_ne!(draws, visits(Order { role: Role::Class, ..order(1, 9, 1, 3) }, 12));
        let plain = visits(Order { augmentation: Augmentation::default(), ..order(1, 9, 1, 3) }, 12);
        assert!(plain.iter().all(|d| d.anchor == [0.5; 2] && !d.flip));
        let same = |a: &Draw, b: &Draw| a.item == b.item && a.caption == b.caption;
        assert!(draws.iter().zip(&plain).all(|(a, b)| same(a, b)));
    }

    #[test]
    fn draws_are_spread() {
        let draws = visits(order(3, 4, 1, 4), 250);
        let mean = |f: &dyn Fn(&Draw) -> f64| draws.iter().map(f).sum::<f64>() / draws.len() as f64;
        for (what, value) in [
            ("flip", mean(&|d| f64::from(d.flip))),
            ("x", mean(&|d| d.anchor[0])),
            ("y", mean(&|d| d.anchor[1])),
            ("caption", mean(&|d| d.caption)),
        ] {
            assert!((value - 0.5).abs() < 0.05, "{what}: mean {value} of {} draws, seed 3", draws.len());
        }
        let product = mean(&|d| (d.anchor[0] - 0.5) * (d.anchor[1] - 0.5));
        assert!(product.abs() < 0.02, "x and y hang together: {product}");
    }

    #[test]
    fn nothing_to_draw_from_and_huge_steps() {
        assert!(order(1, 0, 1, 4).batch_at(3).is_empty());
        assert_eq!(order(1, 3, 0, 0).batch_at(u64::MAX).len(), 1);
    }
}
