//! Attention on a matrix unit: the operands of all heads in tiles, packed once for all tasks.
//!
//! Heads lie side by side in a row, so a head is a matrix with the model's width as its stride. What is deep in one
//! product is wide in the next, so most operands are packed in two ways; see [`crate::tiles`] for tiles and strips.

use half::bf16;
use scumble_tensor::Result;

use super::Sizes;
use crate::engine::{Engine, Scratch};
use crate::gemm::operand::{Along, Operand, Runs};
use crate::pool::SharedMut;
use crate::tiles::pack::{Pack, Side, tile_blocks};
use crate::tiles::{DEPTH, SIDE, TILE};

/// Queries or keys of a tile pair's side: a whole number of strips and of tiles' depths.
pub(super) const PANEL: usize = 128;
/// Strips of a panel.
pub(super) const PANEL_STRIPS: usize = PANEL / SIDE;
/// Strips of queries whose scores are worked on at once: with a panel of keys (forward) or as many strips of keys (the
/// gradient) they stay in a first-level cache.
pub(super) const PAIR: usize = 2;
// The gradient fills whole tiles of depth from a pair, zeros included.
const _: () = assert!(PAIR * SIDE == DEPTH);

/// One tensor of all heads, as tiles.
pub(super) struct Heads {
    tiles: Scratch,
    /// Numbers of a head.
    head: usize,
    /// Numbers from one strip to the next.
    pub strip: usize,
}

/// What the strips of a head are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Deep {
    /// Strips of tokens, deep in the head's width.
    Width,
    /// Strips of the head's width, deep in tokens.
    Tokens,
}

impl Heads {
    /// Packs `x [b, tokens, heads * width]`.
    pub(super) fn new(
        engine: &Engine,
        s: &Sizes,
        x: &[bf16],
        tokens: usize,
        deep: Deep,
        side: Side,
    ) -> Result<Self> {
        let (outer, depth, along) = match deep {
            Deep::Width => (tokens, s.width, Along::Depth),
            Deep::Tokens => (s.width, tokens, Along::Outer),
        };
        let tiles = depth.div_ceil(DEPTH);
        let strip = tiles * TILE;
        let head = outer.div_ceil(SIDE) * strip;
        let mut all = Scratch::new(1, s.batch_heads() * head / 2)?;
        let to: SharedMut<'_, bf16> = SharedMut::new(bytemuck::cast_slice_mut(all.all()));
        let blocks = tile_blocks(1, depth, tiles.max(1));
        engine.pool.run(s.batch_heads(), |index, _| {
            let start = (index / s.heads) * tokens * s.heads * s.width + (index % s.heads) * s.width;
            let data = x.get(start..).unwrap_or_default();
            let runs = Runs::Matrix { data, stride: s.heads * s.width, offsets: vec![0] };
            let operand = Operand { runs, along, outer, segments: 1, segment_len: depth };
            // SAFETY: every task has a head of its own.
            let to = unsafe { to.slice(index * head, head) };
            engine.tier.run(Pack { operand: &operand, block: &blocks[0], first: 0, count: outer, side, to });
        });
        Ok(Self { tiles: all, head, strip })
    }

    /// The strips of one head.
    pub(super) fn of(&self, head: usize) -> &[bf16] {
        &bytemuck::cast_slice::<f32, bf16>(self.tiles.whole())[head * self.head..][..self.head]
    }
}
