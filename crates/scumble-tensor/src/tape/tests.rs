//! What the tape promises: sums over uses, nothing recorded without need, activations freed, checkpoints that change
//! no gradient.

use super::*;
use crate::dtype::DType;
use crate::ops::{activation, add, dropout, linear, mul, scale};
use crate::reference::ReferenceBackend;
use crate::rng;

fn recording<'m>() -> Tape<'m> {
    Tape::recording(Arc::new(ReferenceBackend))
}

fn random(name: &str, dims: &[usize]) -> Tensor {
    let values = rng::stream(0, name).randn(dims.iter().product());
    Tensor::from_slice(&values, dims).unwrap().to_dtype(DType::F64).unwrap()
}

fn tensor(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, &[values.len()]).unwrap()
}

fn nodes(tape: &Tape<'_>) -> usize {
    tape.nodes.borrow().len()
}

#[test]
fn a_value_used_several_times_gets_the_sum() {
    let tape = recording();
    let (x, leaf) = tape.watch(tensor(&[3.0, -2.0]));
    let square = mul::mul(&tape, &x, &x).unwrap();
    let y = add::add(&tape, &square, &x).unwrap();
    let y = add::add(&tape, &y, &square).unwrap();
    // y = 2 x^2 + x
    let gradients = tape.backward(&y, tensor(&[1.0, 10.0])).unwrap();
    assert_eq!(gradients.get(leaf).unwrap().as_slice::<f64>().unwrap(), [13.0, -70.0]);
}

#[test]
fn a_parameter_used_twice_is_one_leaf_and_gradients_accumulate_over_steps() {
    let param = Param::trainable("w", tensor(&[2.0]));
    let mut total = Gradients::default();
    for _ in 0..3 {
        let tape = recording();
        let y = mul::mul(&tape, &tape.param(&param), &tape.param(&param)).unwrap();
        assert_eq!(nodes(&tape), 2);
        let gradients = tape.backward(&y, tensor(&[1.0])).unwrap();
        total.merge(tape.backend(), gradients).unwrap();
    }
    assert_eq!((total.len(), total.get(param.id()).unwrap().item::<f64>().unwrap()), (1, 12.0));
}

#[test]
fn a_gradient_has_the_sizes_of_its_leaf() {
    let tape = recording();
    let (x, leaf) = tape.watch(random("x", &[2, 3]));
    let flat = x.reshape(&[6]).unwrap();
    let y = scale::scale(&tape, &flat, 2.0).unwrap().reshape(&[3, 2]).unwrap();
    let gradients = tape.backward(&y, random("seed", &[3, 2])).unwrap();
    assert_eq!(gradients.get(leaf).unwrap().dims(), [2, 3]);
}

#[test]
fn frozen_operands_leave_no_nodes() {
    let tape = recording();
    let frozen = Param::frozen("w", random("w", &[4, 3]));
    let x = Var::constant(random("x", &[2, 3]));
    let y = linear::linear(&tape, &x, &tape.param(&frozen), None, None).unwrap();
    assert!(!y.needs_grad());
    assert_eq!(nodes(&tape), 0);
    assert!(tape.backward(&y, random("seed", &[2, 4])).unwrap().is_empty());

    let (x, leaf) = tape.watch(random("x", &[2, 3]));
    let y = linear::linear(&tape, &x, &tape.param(&frozen), None, None).unwrap();
    assert_eq!(nodes(&tape), 2);
    let gradients = tape.backward(&y, random("seed", &[2, 4])).unwrap();
    assert!(gradients.len() == 1 && gradients.get(leaf).is_some());
}

#[test]
fn inference_records_nothing() {
    let tape = Tape::inference(Arc::new(ReferenceBackend)).with_checkpointing(true);
    let param = Param::trainable("w", random("w", &[4, 3]));
    let (x, _) = tape.watch(random("x", &[2, 3]));
    let y = linear::linear(&tape, &x, &tape.param(&param), None, None).unwrap();
    let y = tape.checkpoint(&[&y], |tape, inputs| scale::scale(tape, &inputs[0], 2.0)).unwrap();
    assert!(!y.needs_grad() && nodes(&tape) == 0);
}

/// Each op holds a token as it would hold an activation; when an op's turn comes, all later tokens must be gone.
#[test]
fn backward_frees_what_it_has_used() {
    let tape = recording();
    let tokens: Vec<Arc<()>> = (0..5).map(|_| Arc::new(())).collect();
    let (mut x, _) = tape.watch(tensor(&[1.0]));
    for i in 0..tokens.len() {
        let (held, watched) = (Arc::clone(&tokens[i]), tokens.clone());
        x = tape.record(&[&x], tensor(&[1.0]), || {
            move |_: &dyn Backend, d_y: &Tensor, _: &mut Gradients| {
                // `tokens`, the clones in the closures of ops 0..=i, and the closures' own one.
                let holders = |token: &Arc<()>, op: usize| (Arc::strong_count(token), op);
                for (op, token) in watched.iter().enumerate() {
                    let own = usize::from(op <= i);
                    assert_eq!(holders(token, op), (1 + (i + 1) + own, op));
                }
                drop(held);
                Ok(vec![Some(d_y.clone())])
            }
        });
    }
    tape.backward(&x, tensor(&[1.0])).unwrap();
    assert!(tokens.iter().all(|token| Arc::strong_count(token) == 1));
}

#[test]
fn a_tape_runs_backward_once_and_old_values_are_refused() {
    let tape = recording();
    let (x, _) = tape.watch(tensor(&[1.0]));
    let y = scale::scale(&tape, &x, 2.0).unwrap();
    tape.backward(&y, tensor(&[1.0])).unwrap();
    assert!(matches!(tape.backward(&y, tensor(&[1.0])), Err(Error::Tape(_))));
    let (fresh, _) = tape.watch(tensor(&[1.0]));
    let mixed = add::add(&tape, &fresh, &y).unwrap();
    assert!(matches!(tape.backward(&mixed, tensor(&[1.0])), Err(Error::Tape(_))));
}

#[test]
fn a_seed_of_other_sizes_is_refused() {
    let tape = recording();
    let (x, _) = tape.watch(tensor(&[1.0, 2.0]));
    assert!(tape.backward(&x, tensor(&[1.0])).is_err());
}

struct Block {
    up: Param,
    down: Param,
    frozen: Param,
}

impl Block {
    fn new(index: usize) -> Self {
        let param = |name: &str, dims: &[usize]| {
            let name = format!("block {index} {name}");
            Param::trainable(name.clone(), random(&name, dims))
        };
        let frozen = Param::frozen("frozen", random("frozen", &[3, 3]));
        Self { up: param("up", &[6, 3]), down: param("down", &[3, 6]), frozen }
    }

    /// `x + down dropout(silu(up x + w x-context))`, with a parameter used twice.
    fn forward(&self, tape: &Tape<'_>, x: &Var, context: &Var) -> Result<Var> {
        let mixed = linear::linear(tape, context, &tape.param(&self.frozen), None, Some(x))?;
        let hidden = linear::linear(tape, &mixed, &tape.param(&self.up), None, None)?;
        let hidden = activation::activation(tape, crate::backend::Activation::Silu, &hidden)?;
        let hidden = dropout::dropout(tape, &hidden, 0.3, 5)?;
        let y = linear::linear(tape, &hidden, &tape.param(&self.down), None, Some(x))?;
        linear::low_rank(
            tape,
            &y,
            &tape.param(&self.down).reshape(&[6, 3])?,
            &tape.param(&self.down),
            0.5,
            &y,
        )
    }
}

/// What came of running three blocks.
struct Ran {
    y: Tensor,
    /// Gradient of `x`, when it was watched.
    d_x: Option<Tensor>,
    /// Gradients of all parameters.
    params: Vec<Tensor>,
    nodes: usize,
    /// How often a block ran, forward and backward.
    runs: usize,
}

fn run(blocks: &[Block], recompute: Recompute, watch_x: bool) -> Ran {
    let runs = Cell::new(0);
    let tape = recording().with_recompute(recompute).with_dropout(DropoutKey(9));
    let context = Var::constant(random("context", &[4, 3]));
    let (x, leaf) = tape.watch(random("x", &[4, 3]));
    let mut y = if watch_x { x } else { Var::constant(x.into_value()) };
    for block in blocks {
        let runs = &runs;
        let step = move |tape: &Tape<'_>, v: &[Var]| {
            runs.set(runs.get() + 1);
            block.forward(tape, &v[0], &v[1])
        };
        y = tape.checkpoint(&[&y, &context], step).unwrap();
    }
    let nodes = nodes(&tape);
    let kept = tape.kept_by_blocks();
    assert_eq!(kept.len(), blocks.len());
    for (number, kept) in kept.iter().enumerate() {
        assert_eq!(kept.result == 0, recompute.contains(number));
    }
    let mut gradients = tape.backward(&y, random("seed", &[4, 3])).unwrap();
    let params = blocks.iter().flat_map(|block| [&block.up, &block.down]);
    let params = params.map(|param| gradients.take(param.id()).unwrap()).collect();
    let d_x = gradients.take(leaf);
    assert!(gradients.is_empty());
    drop(tape);
    Ran { y: y.into_value(), d_x, params, nodes, runs: runs.get() }
}

/// Dropout is on, so this also says that recomputed blocks draw the same masks.
#[test]
fn recomputing_any_blocks_changes_no_bit() {
    let blocks: Vec<Block> = (0..3).map(Block::new).collect();
    let bytes = |tensor: &Tensor| tensor.bytes().unwrap().to_vec();
    let mut second = Recompute::NOTHING;
    second.insert(1);
    for watch_x in [true, false] {
        let kept = run(&blocks, Recompute::NOTHING, watch_x);
        assert_eq!((kept.nodes, kept.runs, kept.d_x.is_some()), (4, 3, watch_x));
        for (recompute, runs) in [(second, 4), (Recompute::EVERYTHING, 6)] {
            let again = run(&blocks, recompute, watch_x);
            // One node a block and the watched input.
            assert_eq!((again.nodes, again.runs), (4, runs));
            assert_eq!(bytes(&kept.y), bytes(&again.y));
            assert_eq!(kept.d_x.as_ref().map(bytes), again.d_x.as_ref().map(bytes));
            let all = |ran: &Ran| ran.params.iter().map(bytes).collect::<Vec<_>>();
            assert_eq!(all(&kept), all(&again));
        }
    }
}

#[test]
fn a_measuring_tape_knows_what_blocks_keep_and_keeps_nothing() {
    let blocks: Vec<Block> = (0..3).map(Block::new).collect();
    let tape = Tape::measuring(Arc::new(ReferenceBackend)).with_dropout(DropoutKey(9));
    let context = Var::constant(random("context", &[4, 3]));
    let mut y = Var::constant(random("x", &[4, 3]));
    for block in &blocks {
        y = tape.checkpoint(&[&y, &context], move |tape, v| block.forward(tape, &v[0], &v[1])).unwrap();
    }
    assert_eq!(y.value().bytes().unwrap(), run(&blocks, Recompute::NOTHING, false).y.bytes().unwrap());
    assert!(tape.kept_by_blocks().iter().all(|kept| kept.result == 4 * 3 * 8));
    assert!(matches!(tape.backward(&y, random("seed", &[4, 3])), Err(Error::Tape(_))));
}

#[test]
fn blocks_are_chosen_by_number() {
    let mut some = Recompute::NOTHING;
    for number in [0, 63, 64, 511] {
        some.insert(number);
    }
    for number in 0..600 {
        assert_eq!(some.contains(number), [0, 63, 64, 511].contains(&number), "{number}");
        assert!(Recompute::EVERYTHING.contains(number) && !Recompute::NOTHING.contains(number));
    }
    some.insert(700);
    assert!(some.contains(512) && !some.contains(510));
}

#[test]
fn a_checkpoint_without_anything_trainable_leaves_no_node() {
    for on in [true, false] {
        let tape = recording().with_checkpointing(on);
        let x = Var::constant(tensor(&[1.0]));
        let y = tape.checkpoint(&[&x], |tape, v| scale::scale(tape, &v[0], 2.0)).unwrap();
        assert!(!y.needs_grad() && nodes(&tape) == 0);
    }
}

#[test]
fn a_checkpoint_that_captures_a_differentiated_value_is_refused() {
    for on in [true, false] {
        let tape = recording().with_checkpointing(on);
        let (x, _) = tape.watch(tensor(&[1.0]));
        let captured = x.clone();
        let block = move |tape: &Tape<'_>, v: &[Var]| mul::mul(tape, &v[0], &captured);
        assert!(matches!(tape.checkpoint(&[&x], block), Err(Error::Tape(_))));
    }
}
