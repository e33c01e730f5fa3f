//! Which blocks are computed again in backward so that a step fits into a memory budget.
//!
//! Forward keeps every block's insides until backward has passed it. When backward reaches block `i`, all later blocks
//! are gone, and block `i` is whole, recomputed or not:
//!
//! ```text
//! held(i) = sum over j < i of kept(j) + all(i)      kept(j) = result(j) if recomputed, else all(j)
//! peak    = max over i of held(i)
//! ```
//!
//! So recomputing the last block saves nothing, and the first ones help every later one. As long as the peak is too
//! high, the block before it that saves most is chosen, the first of equal ones: the fewest blocks, for the least
//! extra time. The choice changes no bit of the result.

use std::sync::Arc;

use scumble_tensor::{Backend, KeptBytes, Recompute, Result, Tape, Var, memory};

/// What a forward pass would keep for backward.
pub struct Measured {
    /// Bytes between the blocks.
    pub between: usize,
    /// What each block keeps.
    pub blocks: Vec<KeptBytes>,
}

/// Runs a forward pass that keeps no block and finds out what each would keep.
pub fn measure<'m>(
    backend: &Arc<dyn Backend>,
    forward: impl FnOnce(&Tape<'m>) -> Result<Var>,
) -> Result<Measured> {
    let before = memory::stats().live_bytes;
    let tape = Tape::measuring(Arc::clone(backend));
    let result = forward(&tape)?;
    let held = memory::stats().live_bytes.saturating_sub(before);
    drop(result);
    let blocks = tape.kept_by_blocks();
    let results: usize = blocks.iter().map(|block| block.result).sum();
    Ok(Measured { between: held.saturating_sub(results), blocks })
}

/// A choice of blocks and what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The blocks.
    pub recompute: Recompute,
    /// How many they are.
    pub blocks: usize,
    /// Most bytes that all blocks hold at once.
    pub peak: usize,
}

/// The fewest blocks beside those of `always` whose recomputation keeps the peak within `budget` bytes; where none
/// suffices, those that lower it as far as it goes.
pub fn choose(blocks: &[KeptBytes], always: Recompute, budget: usize) -> Choice {
    let mut chosen: Vec<bool> = (0..blocks.len()).map(|number| always.contains(number)).collect();
    loop {
        let (peak, at) = peak(blocks, &chosen);
        let saves = |&index: &usize| blocks[index].all.saturating_sub(blocks[index].result);
        let candidates = (0..at).filter(|&index| !chosen[index] && saves(&index) > 0);
        // Of equal ones the first: `max_by_key` would give the last.
        let best = candidates.rev().max_by_key(saves).filter(|_| peak > budget);
        let Some(best) = best else { break finish(chosen, peak) };
        chosen[best] = true;
    }
}

fn finish(chosen: Vec<bool>, peak: usize) -> Choice {
    let mut recompute = Recompute::NOTHING;
    let numbers = (0..chosen.len()).filter(|&number| chosen[number]);
    let blocks = numbers.map(|number| recompute.insert(number)).count();
    Choice { recompute, blocks, peak }
}

/// The most that is held at once, and the block that backward has reached then.
fn peak(blocks: &[KeptBytes], chosen: &[bool]) -> (usize, usize) {
    let (mut before, mut peak) = (0usize, (0, 0));
    for (index, (block, &again)) in blocks.iter().zip(chosen).enumerate() {
        let held = before.saturating_add(block.all);
        if held > peak.0 {
            peak = (held, index);
        }
        before = before.saturating_add(if again { block.result } else { block.all });
    }
    peak
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(all: &[usize]) -> Vec<KeptBytes> {
        all.iter().map(|&all| KeptBytes { all, result: 1 }).collect()
    }

    fn numbers(choice: &Choice, count: usize) -> Vec<usize> {
        (0..count).filter(|&number| choice.recompute.contains(number)).collect()
    }

    #[test]
    fn a_generous_budget_recomputes_nothing() {
        let choice = choose(&blocks(&[10, 20, 30]), Recompute::NOTHING, 60);
        assert_eq!((choice.blocks, choice.peak), (0, 60));
        assert_eq!(choice.recompute, Recompute::NOTHING);
        assert_eq!(choose(&[], Recompute::NOTHING, 0).blocks, 0);
    }

    #[test]
    fn the_largest_block_before_the_peak_goes_first() {
        let sizes = blocks(&[10, 20, 20, 30]);
        let choice = choose(&sizes, Recompute::NOTHING, 79);
        assert_eq!((numbers(&choice, 4), choice.peak), (vec![1], 61));
        let choice = choose(&sizes, Recompute::NOTHING, 50);
        assert_eq!((numbers(&choice, 4), choice.peak), (vec![1, 2], 42));
        // The last block is whole when backward begins, whatever is chosen.
        let choice = choose(&sizes, Recompute::NOTHING, 5);
        assert_eq!((numbers(&choice, 4), choice.peak), (vec![0, 1, 2], 33));
        let all = choose(&sizes, Recompute::EVERYTHING, 500);
        assert_eq!((all.blocks, all.peak), (4, 33));
    }

    #[test]
    fn a_smaller_budget_never_leads_to_a_higher_peak() {
        let sizes: Vec<KeptBytes> =
            (0..40).map(|i| KeptBytes { all: (i * 7919) % 101 + 3, result: i % 3 + 1 }).collect();
        let mut before = usize::MAX;
        for budget in (0..2500).rev().step_by(50) {
            let choice = choose(&sizes, Recompute::NOTHING, budget);
            assert!(choice.peak <= before);
            before = choice.peak;
        }
    }
}
