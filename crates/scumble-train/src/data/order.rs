//! In which order pictures are seen, and how each visit looks: pure functions of seed and visit number.
//!
//! Visits are numbered from 0 over the whole run; step `s` with batch size `b` makes visits `s b .. (s + 1) b`. A round is every
//! picture `repeats` times, shuffled:
//!
//! ```text
//! round = visit / (items * repeats),   item = permutation(seed, round)[visit mod (items * repeats)] mod items
//! ```
//!
//! Batches run on over the end of a round, so all are full. With pictures of several sizes a round is put in order so that
//! those of one size come together a batch at a time, as far as they can. Crop, flip and text of a visit come from streams of their own, keyed
//! by (seed, visit). Nothing is remembered from step to step: threads and an interruption change no visit,
//! and neither does the batch size while all pictures have one size.

use std::collections::BTreeMap;

use scumble_tensor::rng::{Generator, stream_at};

use super::{Augmentation, Item};
use crate::picture::TargetSize;

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

/// One place of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    item: usize,
    augmentation: Augmentation,
    /// Pictures of different sizes can't stand in one forward pass.
    size: usize,
}

/// The order of one data set in one run.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    role: Role,
    slots: Vec<Slot>,
    batch: usize,
}

impl Order {
    /// An order over `items` pictures of one size, `repeats` times each a round, `batch` a step. Zeros count as one (of no
    /// items there is no draw).
    pub fn new(
        seed: u64,
        role: Role,
        items: usize,
        repeats: usize,
        batch: usize,
        augmentation: Augmentation,
    ) -> Self {
        let slot = |place| Slot { item: place % items.max(1), augmentation, size: 0 };
        let slots = (0..items.saturating_mul(repeats.max(1))).map(slot).collect();
        Self { seed, role, slots, batch: batch.max(1) }
    }

    /// An order over the pictures of a data set, each with its own repeats, augmentation and size.
    pub fn of(seed: u64, role: Role, items: &[Item], batch: usize) -> Self {
        let mut sizes: Vec<TargetSize> = items.iter().map(|item| item.size).collect();
        sizes.sort();
        sizes.dedup();
        let most = items.iter().map(|item| item.repeats).max().unwrap_or(0);
        let mut slots = Vec::new();
        for repeat in 0..most {
            let repeated = items.iter().enumerate().filter(|(_, item)| repeat < item.repeats);
            slots.extend(repeated.map(|(index, item)| Slot {
                item: index,
                augmentation: item.augmentation,
                size: sizes.partition_point(|size| *size < item.size),
            }));
        }
        Self { seed, role, slots, batch: batch.max(1) }
    }

    /// Visits in a round.
    pub fn round_length(&self) -> u64 {
        self.slots.len() as u64
    }

    /// The visits of a step, counted from 0; empty if there are no items. With gradient accumulation count forward passes.
    pub fn batch_at(&self, step: u64) -> Vec<Draw> {
        let first = step.wrapping_mul(self.batch as u64);
        if self.slots.is_empty() {
            return Vec::new();
        }
        let mut order = (u64::MAX, Vec::new());
        (0..self.batch as u64)
            .map(|slot| {
                let visit = first.wrapping_add(slot);
                let (round, place) = (visit / self.round_length(), visit % self.round_length());
                if order.1.is_empty() || order.0 != round {
                    order = (round, self.round(round));
                }
                self.draw(visit, self.slots[order.1[place as usize]])
            })
            .collect()
    }

    /// The stream that changes the text of a visit.
    pub fn text_stream(&self, visit: u64) -> Generator {
        let name = match self.role {
            Role::Instance => "data.instance.tags",
            Role::Class => "data.class.tags",
        };
        stream_at(self.seed, name, visit)
    }

    /// Indices of the slots in the order of a round.
    fn round(&self, round: u64) -> Vec<usize> {
        let name = match self.role {
            Role::Instance => "data.instance.order",
            Role::Class => "data.class.order",
        };
        let shuffled = stream_at(self.seed, name, round).randperm(self.slots.len());
        if self.batch == 1 || self.slots.windows(2).all(|pair| pair[0].size == pair[1].size) {
            return shuffled;
        }
        // A step that the round before began is finished first.
        let begun = (u128::from(round) * self.slots.len() as u128 % self.batch as u128) as usize;
        grouped(&shuffled, |slot| self.slots[slot].size, self.batch, (self.batch - begun) % self.batch)
    }

    fn draw(&self, visit: u64, slot: Slot) -> Draw {
        let [crop, flip, caption] = match self.role {
            Role::Instance => ["data.instance.crop", "data.instance.flip", "data.instance.caption"],
            Role::Class => ["data.class.crop", "data.class.flip", "data.class.caption"],
        };
        let uniform = |name: &str| stream_at(self.seed, name, visit).rand_f64(2);
        let anchor = match uniform(crop)[..] {
            [x, y] if slot.augmentation.random_crop => [x, y],
            _ => [0.5; 2],
        };
        let first = |name: &str| uniform(name).first().copied().unwrap_or_default();
        Draw {
            visit,
            item: slot.item,
            anchor,
            flip: slot.augmentation.flip && first(flip) < 0.5,
            caption: first(caption),
        }
    }
}

/// Puts slots of the same size next to each other, a batch at a time, so that few steps are of several sizes. The first
/// `lead` finish a step that the round before began; what fills no step stands there and at the end.
fn grouped(shuffled: &[usize], size: impl Fn(usize) -> usize, batch: usize, lead: usize) -> Vec<usize> {
    let mut waiting: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut full: Vec<Vec<usize>> = Vec::new();
    for &slot in shuffled {
        let group = waiting.entry(size(slot)).or_default();
        group.push(slot);
        if group.len() == batch {
            full.push(std::mem::take(group));
        }
    }
    let mut rest: Vec<usize> = waiting.into_values().flatten().collect();
    while rest.len() < lead {
        match full.pop() {
            Some(group) => rest.extend(group),
            None => break,
        }
    }
    let behind = rest.split_off(lead.min(rest.len()));
    rest.into_iter().chain(full.into_iter().flatten()).chain(behind).collect()
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
        let plain = visits(Order::new(1, Role::Instance, 9, 1, 3, Augmentation::default()), 12);
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

    /// Sizes of the slots, cycled.
    fn of_sizes(sizes: &[usize], items: usize, batch: usize) -> Order {
        let mut order = order(1, items, 1, batch);
        for (slot, size) in order.slots.iter_mut().zip(sizes.iter().cycle()) {
            slot.size = *size;
        }
        order
    }

    #[test]
    fn sizes_come_together_and_every_round_still_sees_everything_once() {
        for (items, batch) in [(23, 4), (8, 4), (5, 4), (3, 4), (40, 3), (2, 5)] {
            let order = of_sizes(&[0, 1, 0, 2], items, batch);
            let draws = visits(order.clone(), 30);
            for round in draws.chunks_exact(items) {
                let mut seen: Vec<usize> = round.iter().map(|draw| draw.item).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..items).collect::<Vec<_>>(), "{items} items, batch {batch}");
            }
            let mixed = |step: &[Draw]| {
                let size = |draw: &Draw| order.slots[draw.item].size;
                step.iter().any(|draw| size(draw) != size(&step[0]))
            };
            let count = draws.chunks(batch).filter(|step| mixed(step)).count();
            // 40 items in steps of 3: at most the three that fill no step of each size, once a round.
            assert!(
                items != 40 || count <= 2 * (30 * batch).div_ceil(items) + 2,
                "{count} of 30 steps are mixed"
            );
            assert_eq!(draws, visits(order, 30));
        }
    }

    #[test]
    fn nothing_to_draw_from_and_huge_steps() {
        assert!(order(1, 0, 1, 4).batch_at(3).is_empty());
        assert_eq!(order(1, 3, 0, 0).batch_at(u64::MAX).len(), 1);
    }
}
