//! The tape: remembers what was computed, in order, and walks it backwards.
//!
//! A [`Var`] is a tensor that may stand on the tape. An op whose operands all stand off it leaves no trace, so frozen
//! inputs cost nothing in backward; an op with at least one operand on it leaves one node with its vector-Jacobian
//! product (VJP), a closure over the tensors it needs. [`Tape::backward`] takes the nodes from the last to the
//! first and drops each closure after use, which frees the activations it held.
//!
//! [`Tape::checkpoint`] records a block on a tape of its own, or runs it without recording, keeps only its inputs and
//! records it in backward; [`Recompute`] says which.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::memory;
use crate::param::Param;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Identifies a leaf (a parameter or a watched input) in [`Gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafId(u64);

impl LeafId {
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A place on one recording: a node of another tape, or of a tape that ran backward since, is not mistaken for an own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodeId {
    recording: u64,
    index: usize,
}

fn fresh_recording() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A value of a computation; it has a node when something trainable leads to it.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    node: Option<NodeId>,
}

impl Var {
    /// A value that nothing trainable leads to.
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: None }
    }

    /// The numbers.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The numbers, owned.
    pub fn into_value(self) -> Tensor {
        self.value
    }

    /// Sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// Whether a gradient for this value will be asked for.
    pub fn needs_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same numbers and node under other sizes; the tape gives gradients back in the node's own sizes.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self> {
        Ok(Self { value: self.value.reshape(dims)?, node: self.node })
    }
}

/// Gradients by leaf.
#[derive(Default)]
pub struct Gradients {
    by_leaf: BTreeMap<LeafId, Tensor>,
}

impl Gradients {
    /// The gradient of a leaf, if anything led to it.
    pub fn get(&self, leaf: LeafId) -> Option<&Tensor> {
        self.by_leaf.get(&leaf)
    }

    /// Takes the gradient of a leaf out.
    pub fn take(&mut self, leaf: LeafId) -> Option<Tensor> {
        self.by_leaf.remove(&leaf)
    }

    /// Number of leaves with a gradient.
    pub fn len(&self) -> usize {
        self.by_leaf.len()
    }

    /// Whether no leaf has a gradient.
    pub fn is_empty(&self) -> bool {
        self.by_leaf.is_empty()
    }

    /// Adds `grad` to a leaf's gradient.
    pub fn add(&mut self, backend: &dyn Backend, leaf: LeafId, grad: Tensor) -> Result<()> {
        let sum = match self.by_leaf.remove(&leaf) {
            Some(before) => backend.accumulate(before, &grad)?,
            None => grad,
        };
        self.by_leaf.insert(leaf, sum);
        Ok(())
    }

    /// Adds all of `other`, leaf by leaf; for gradient accumulation over micro-batches.
    pub fn merge(&mut self, backend: &dyn Backend, other: Self) -> Result<()> {
        other.by_leaf.into_iter().try_for_each(|(leaf, grad)| self.add(backend, leaf, grad))
    }
}

/// A vector-Jacobian product: from the gradient of the result to those of the operands, in order. `None` for an
/// operand that is off the tape. Gradients of leaves inside (see [`Tape::checkpoint`]) go straight to [`Gradients`].
pub type Vjp<'m> = Box<dyn FnOnce(&dyn Backend, &Tensor, &mut Gradients) -> Result<Vec<Option<Tensor>>> + 'm>;

enum Kind<'m> {
    Leaf(LeafId),
    Op { inputs: Vec<Option<usize>>, vjp: Vjp<'m> },
}

struct Node<'m> {
    /// Sizes of the value, and so of its gradient.
    shape: Shape,
    kind: Kind<'m>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Record,
    /// Only watches whether a trainable parameter is used.
    Watch,
    Inference,
}

/// Key of the dropout masks of one step: masks are a function of it and of the place they are used at, so a
/// recomputed block draws the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey(pub u64);

/// Which blocks of [`Tape::checkpoint`], numbered in the order of the calls, are computed again in backward instead of
/// being kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recompute {
    chosen: [u64; 8],
    /// Those beyond the numbers that `chosen` has bits for.
    beyond: bool,
}

impl Recompute {
    /// No block.
    pub const NOTHING: Self = Self { chosen: [0; 8], beyond: false };
    /// Every block: less memory, a third more time.
    pub const EVERYTHING: Self = Self { chosen: [u64::MAX; 8], beyond: true };

    /// Whether block `number` is among them.
    pub fn contains(&self, number: usize) -> bool {
        self.chosen.get(number / 64).map_or(self.beyond, |bits| bits >> (number % 64) & 1 == 1)
    }

    /// Adds block `number`; beyond the 512th they only come together.
    pub fn insert(&mut self, number: usize) {
        match self.chosen.get_mut(number / 64) {
            Some(bits) => *bits |= 1 << (number % 64),
            None => self.beyond = true,
        }
    }
}

/// Memory that a block holds until backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptBytes {
    /// All of it, the result among it.
    pub all: usize,
    /// The result, which is there whether the block is recomputed or not.
    pub result: usize,
}

/// A block that was recorded on a tape of its own.
struct Inside<'m> {
    tape: Tape<'m>,
    y: Var,
    /// The inputs' places on that tape, for those whose gradient is wanted.
    leaves: Vec<Option<LeafId>>,
}

impl<'m> Inside<'m> {
    /// Records `block` on a fresh tape; inputs that are on a tape are watched.
    fn run<F>(
        backend: &Arc<dyn Backend>,
        dropout: Option<DropoutKey>,
        inputs: &[&Var],
        block: &F,
    ) -> Result<Self>
    where
        F: Fn(&Tape<'m>, &[Var]) -> Result<Var> + 'm,
    {
        let tape = Tape { dropout, ..Tape::recording(Arc::clone(backend)) };
        let (mut leaves, mut watched) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
        for input in inputs {
            let (var, leaf) = if input.needs_grad() {
                let (var, leaf) = tape.watch(input.value.clone());
                (var, Some(leaf))
            } else {
                (Var::constant(input.value.clone()), None)
            };
            watched.push(var);
            leaves.push(leaf);
        }
        let y = block(&tape, &watched)?;
        Ok(Self { tape, y, leaves })
    }

    /// Gradients of the inputs; those of leaves inside go to `gradients`.
    fn backward(self, d_y: &Tensor, gradients: &mut Gradients) -> Result<Vec<Option<Tensor>>> {
        let mut inner = self.tape.backward(&self.y, d_y.clone())?;
        let d_inputs = self.leaves.into_iter().map(|leaf| leaf.and_then(|leaf| inner.take(leaf))).collect();
        gradients.merge(self.tape.backend(), inner)?;
        Ok(d_inputs)
    }
}

/// Records a computation over one backend. `'m` is the lifetime of the model whose blocks are checkpointed.
pub struct Tape<'m> {
    backend: Arc<dyn Backend>,
    mode: Mode,
    nodes: RefCell<Vec<Node<'m>>>,
    params: RefCell<BTreeMap<LeafId, usize>>,
    recording: Cell<u64>,
    saw_trainable: Cell<bool>,
    saw_foreign: Cell<bool>,
    dropout: Option<DropoutKey>,
    recompute: Recompute,
    kept: RefCell<Vec<KeptBytes>>,
    measuring: bool,
}

impl<'m> Tape<'m> {
    fn new(backend: Arc<dyn Backend>, mode: Mode) -> Self {
        Self {
            backend,
            mode,
            nodes: RefCell::default(),
            params: RefCell::default(),
            recording: Cell::new(fresh_recording()),
            saw_trainable: Cell::new(false),
            saw_foreign: Cell::new(false),
            dropout: None,
            recompute: Recompute::NOTHING,
            kept: RefCell::default(),
            measuring: false,
        }
    }

    /// A tape that records.
    pub fn recording(backend: Arc<dyn Backend>) -> Self {
        Self::new(backend, Mode::Record)
    }

    /// A tape that finds out what each block would keep ([`Tape::kept_by_blocks`]) and keeps none of it: it cannot run
    /// backward.
    pub fn measuring(backend: Arc<dyn Backend>) -> Self {
        Self { measuring: true, ..Self::new(backend, Mode::Record) }
    }

    /// A tape that records nothing: everything is a constant.
    pub fn inference(backend: Arc<dyn Backend>) -> Self {
        Self::new(backend, Mode::Inference)
    }

    /// Turns dropout on, keyed for this step.
    pub fn with_dropout(mut self, key: DropoutKey) -> Self {
        self.dropout = Some(key);
        self
    }

    /// Lets [`Tape::checkpoint`] recompute blocks instead of storing their insides: less memory, a third more time.
    pub fn with_checkpointing(self, on: bool) -> Self {
        self.with_recompute(if on { Recompute::EVERYTHING } else { Recompute::NOTHING })
    }

    /// As [`Tape::with_checkpointing`], for chosen blocks.
    pub fn with_recompute(mut self, recompute: Recompute) -> Self {
        self.recompute = recompute;
        self
    }

    /// The backend that computes.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// The key of this step's dropout masks; `None` outside of training.
    pub fn dropout_key(&self) -> Option<DropoutKey> {
        self.dropout
    }

    /// A parameter's value; on the tape when it is trainable.
    pub fn param(&self, param: &Param) -> Var {
        let value = param.value();
        if !param.is_trainable() || self.mode == Mode::Inference {
            return Var::constant(value);
        }
        self.saw_trainable.set(true);
        if self.mode == Mode::Watch {
            return Var::constant(value);
        }
        let shape = *value.shape();
        let mut params = self.params.borrow_mut();
        let index = params.entry(param.id()).or_insert_with(|| self.push(shape, Kind::Leaf(param.id())));
        Var { value, node: Some(self.node(*index)) }
    }

    /// A value whose gradient is wanted.
    pub fn watch(&self, value: Tensor) -> (Var, LeafId) {
        let leaf = LeafId::fresh();
        let recorded = self.mode == Mode::Record;
        let node = recorded.then(|| self.node(self.push(*value.shape(), Kind::Leaf(leaf))));
        (Var { value, node }, leaf)
    }

    fn push(&self, shape: Shape, kind: Kind<'m>) -> usize {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { shape, kind });
        nodes.len() - 1
    }

    fn node(&self, index: usize) -> NodeId {
        NodeId { recording: self.recording.get(), index }
    }

    /// Where the operands stand on this tape; remembers when one stands on another.
    fn inputs(&self, operands: &[&Var]) -> Vec<Option<usize>> {
        let index = |node: NodeId| {
            let own = node.recording == self.recording.get();
            if !own {
                self.saw_foreign.set(true);
            }
            own.then_some(node.index)
        };
        operands.iter().map(|operand| operand.node.and_then(index)).collect()
    }

    fn check_foreign(&self) -> Result<()> {
        if self.saw_foreign.get() {
            return Err(Error::Tape(
                "a value of another recording was used; a checkpointed block must get all it differentiates as inputs",
            ));
        }
        Ok(())
    }

    /// Puts an op's result on the tape if any operand is on it; `vjp` is only built then.
    pub fn record<F>(&self, operands: &[&Var], value: Tensor, vjp: impl FnOnce() -> F) -> Var
    where
        F: FnOnce(&dyn Backend, &Tensor, &mut Gradients) -> Result<Vec<Option<Tensor>>> + 'm,
    {
        if self.mode == Mode::Inference || !operands.iter().any(|operand| operand.needs_grad()) {
            return Var::constant(value);
        }
        let inputs = self.inputs(operands);
        if self.mode == Mode::Watch {
            return Var::constant(value);
        }
        let index = self.push(*value.shape(), Kind::Op { inputs, vjp: Box::new(vjp()) });
        Var { value, node: Some(self.node(index)) }
    }

    /// Runs `block` on `inputs` as one node. Its insides are kept on a tape of their own, or computed again in backward;
    /// either way its gradients are summed in the same order, so the choice changes no bit of them.
    pub fn checkpoint<F>(&self, inputs: &[&Var], block: F) -> Result<Var>
    where
        F: Fn(&Tape<'m>, &[Var]) -> Result<Var> + 'm,
    {
        if self.mode != Mode::Record {
            let owned: Vec<Var> = inputs.iter().map(|&input| input.clone()).collect();
            return block(self, &owned);
        }
        let number = self.kept.borrow().len();
        if self.recompute.contains(number) {
            self.kept.borrow_mut().push(KeptBytes::default());
            return self.recomputed(inputs, block);
        }
        let before = memory::stats().live_bytes;
        let inner = Inside::run(&self.backend, self.dropout, inputs, &block)?;
        let value = inner.y.value.clone();
        self.kept.borrow_mut().push(KeptBytes {
            all: memory::stats().live_bytes.saturating_sub(before),
            result: value.numel() * value.dtype().size(),
        });
        inner.tape.check_foreign()?;
        if !inner.y.needs_grad() {
            return Ok(Var::constant(value));
        }
        if self.measuring {
            return Ok(self.push_block(
                inputs,
                value,
                Box::new(|_, _, _| Err(Error::Tape("this tape only measures"))),
            ));
        }
        Ok(self.push_block(inputs, value, Box::new(move |_, d_y, gradients| inner.backward(d_y, gradients))))
    }

    /// A block of which only the inputs are kept.
    fn recomputed<F>(&self, inputs: &[&Var], block: F) -> Result<Var>
    where
        F: Fn(&Tape<'m>, &[Var]) -> Result<Var> + 'm,
    {
        let constants: Vec<Var> = inputs.iter().map(|input| Var::constant(input.value.clone())).collect();
        let watcher = Tape { dropout: self.dropout, ..Tape::new(Arc::clone(&self.backend), Mode::Watch) };
        let value = block(&watcher, &constants)?.value;
        watcher.check_foreign()?;
        if !watcher.saw_trainable.get() && !inputs.iter().any(|input| input.needs_grad()) {
            return Ok(Var::constant(value));
        }
        let needs: Vec<bool> = inputs.iter().map(|input| input.needs_grad()).collect();
        let (backend, dropout) = (Arc::clone(&self.backend), self.dropout);
        let vjp = move |_: &dyn Backend, d_y: &Tensor, gradients: &mut Gradients| {
            // Whether an input's gradient is wanted is all that the second run asks of it.
            let again = constants.into_iter().zip(&needs).map(|(input, &needed)| Var {
                node: needed.then_some(NodeId { recording: 0, index: 0 }),
                ..input
            });
            let again: Vec<Var> = again.collect();
            let inside = Inside::run(&backend, dropout, &again.iter().collect::<Vec<_>>(), &block)?;
            drop(again);
            inside.backward(d_y, gradients)
        };
        Ok(self.push_block(inputs, value, Box::new(vjp)))
    }

    fn push_block(&self, inputs: &[&Var], value: Tensor, vjp: Vjp<'m>) -> Var {
        let inputs = self.inputs(inputs);
        let index = self.push(*value.shape(), Kind::Op { inputs, vjp });
        Var { value, node: Some(self.node(index)) }
    }

    /// What each block of [`Tape::checkpoint`] so far has kept, in order; nothing for those that are recomputed.
    pub fn kept_by_blocks(&self) -> Vec<KeptBytes> {
        self.kept.borrow().clone()
    }

    /// Gradients of `sum(root * seed)` for all leaves. Consumes what was recorded: a tape runs backward once.
    pub fn backward(&self, root: &Var, seed: Tensor) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        let Some(NodeId { recording, index: last }) = root.node else { return Ok(gradients) };
        self.check_foreign()?;
        if recording != self.recording.replace(fresh_recording()) {
            return Err(Error::Tape("backward runs once per recording"));
        }
        let mut nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        self.params.borrow_mut().clear();
        let mut pending: Vec<Option<Tensor>> = (0..=last).map(|_| None).collect();
        pending[last] = Some(seed.reshape(nodes[last].shape.dims())?);
        nodes.truncate(last + 1);
        while let Some(Node { kind, .. }) = nodes.pop() {
            let Some(grad) = pending.pop().flatten() else { continue };
            match kind {
                Kind::Leaf(leaf) => gradients.add(self.backend(), leaf, grad)?,
                Kind::Op { inputs, vjp } => {
                    let d_inputs = vjp(self.backend(), &grad, &mut gradients)?;
                    drop(grad);
                    for (input, d_input) in inputs.into_iter().zip(d_inputs) {
                        let (Some(input), Some(d_input)) = (input, d_input) else { continue };
                        let d_input = d_input.reshape(nodes[input].shape.dims())?;
                        pending[input] = Some(match pending[input].take() {
                            Some(before) => self.backend.accumulate(before, &d_input)?,
                            None => d_input,
                        });
                    }
                }
            }
        }
        Ok(gradients)
    }
}

#[cfg(test)]
mod tests;
