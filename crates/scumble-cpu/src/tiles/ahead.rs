//! Memory that a unit asks for while it multiplies: weights come from afar once each, in runs too short for the processor
//! to foresee, and would otherwise be waited for.

use half::bf16;

/// Numbers in a line of the cache.
const LINE: usize = 32;

/// Rows of so many lines of the cache each. Nothing is read, so it does not matter where they lie.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // only those units ask
pub(crate) struct Ahead {
    at: *const bf16,
    /// Numbers from one row to the next.
    row: usize,
    rows: usize,
    lines: usize,
}

impl Ahead {
    /// Nothing.
    pub(crate) const NONE: Self = Self { at: std::ptr::null(), row: 0, rows: 0, lines: 0 };

    /// `rows` rows of `len` numbers, the first at `at`, `row` numbers from one to the next.
    pub(crate) fn new(at: *const bf16, row: usize, rows: usize, len: usize) -> Self {
        Self { at, row, rows, lines: len.div_ceil(LINE) }
    }

    /// Whether there is nothing to ask for.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // only those units ask
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Part `index` of `parts`.
    #[inline(always)]
    pub(crate) fn part(self, index: usize, parts: usize) -> Self {
        if self.is_empty() {
            return self;
        }
        let share = self.rows.div_ceil(parts.max(1));
        let first = (index * share).min(self.rows);
        Self { at: self.at.wrapping_add(first * self.row), rows: share.min(self.rows - first), ..self }
    }

    /// Asks for all of it, by means of the unit's instruction.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // only those units ask
    #[inline(always)]
    pub(crate) fn ask(self, prefetch: impl Fn(*const bf16)) {
        for row in 0..self.rows {
            let at = self.at.wrapping_add(row * self.row);
            (0..self.lines).for_each(|line| prefetch(at.wrapping_add(line * LINE)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_ask_for_every_line_once() {
        let memory = [bf16::ZERO; 7 * 100];
        for parts in 1..12 {
            let all = Ahead::new(memory.as_ptr(), 100, 7, 2 * LINE + 5);
            let asked = std::cell::RefCell::new(Vec::new());
            for index in 0..parts {
                all.part(index, parts).ask(|at| asked.borrow_mut().push(at));
            }
            let line = |row: usize, line: usize| memory[row * 100 + line * LINE..].as_ptr();
            let expected: Vec<_> = (0..7).flat_map(|r| (0..3).map(move |l| line(r, l))).collect();
            assert_eq!(asked.into_inner(), expected, "{parts}");
        }
    }
}
