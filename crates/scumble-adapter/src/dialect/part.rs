//! The parts that a module's change is stored in, whatever a dialect calls them.

use crate::table::Module;

/// Part of a module's change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Low rank: input side.
    Down,
    /// Low rank: output side.
    Up,
    /// LoCon's core.
    Mid,
    /// One number: alpha of the scale `alpha / r`.
    Alpha,
    /// One number: the scale itself, which overrides alpha.
    Scale,
    /// One number that the product is multiplied with.
    Scalar,
    /// LoHa: `a`, `b` or core of the first product.
    Hada1(Side),
    /// LoHa: of the second product.
    Hada2(Side),
    /// LoKr: the small matrix.
    Lokr1(Side),
    /// LoKr: the large matrix.
    Lokr2(Side),
    /// The difference of the weight itself.
    Diff,
    /// The difference of the bias.
    DiffBias,
    /// A bias behind the output side, under the same scale as the factors.
    UpBias,
    /// DoRA as LyCORIS stores it; the shape tells the axis.
    DoraScale,
    /// DoRA as PEFT stores it: one number an output.
    Magnitude,
}

/// Which tensor of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Not in factors.
    Whole,
    /// Output side.
    A,
    /// Input side.
    B,
    /// The core with the kernel.
    Core,
}

/// No published adapter comes near this rank.
const MAX_RANK: usize = 1 << 14;

impl Part {
    /// Whether a tensor of this shape claims more numbers than the part can have on `module`. Pickles can claim sizes
    /// that they do not store, and claims must not take memory.
    pub(super) fn is_absurd(self, shape: &[usize], module: &Module) -> bool {
        let weights = module.weights();
        let most = match self {
            Part::Alpha | Part::Scale | Part::Scalar => 1 << 16,
            Part::Diff | Part::DiffBias | Part::UpBias | Part::DoraScale | Part::Magnitude => weights.max(16),
            _ => weights.max((weights / module.inputs.min(module.outputs).max(1)).saturating_mul(MAX_RANK)),
        };
        shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).is_none_or(|n| n > most)
    }

    /// Whether the sizes that a base decides agree with `module`; `None` where they do not tell.
    pub(super) fn agrees(self, shape: &[usize], module: &Module) -> Option<bool> {
        let size = |index: usize| shape.get(index).copied();
        let columns = module.inputs * module.kernel().iter().product::<usize>();
        match self {
            Part::Down => Some(
                size(1) == Some(module.inputs)
                    && match shape {
                        [_, _, kh, kw] => [*kh, *kw] == module.kernel() || (*kh, *kw) == (1, 1),
                        _ => !module.is_conv() || module.kernel() == [1, 1],
                    },
            ),
            Part::Up => Some(size(0) == Some(module.outputs)),
            Part::Hada1(Side::A) | Part::Hada2(Side::A) => {
                Some(size(0) == Some(module.outputs) || size(1) == Some(module.outputs))
            }
            Part::Hada1(Side::B) | Part::Hada2(Side::B) => {
                Some(size(1) == Some(columns) || size(1) == Some(module.inputs))
            }
            Part::Diff => Some(shape.iter().product::<usize>() == module.weights()),
            Part::DiffBias | Part::UpBias => Some(shape.iter().product::<usize>() == module.outputs),
            Part::Lokr1(Side::Whole) => {
                let divides = |whole: usize, part: Option<usize>| {
                    part.is_some_and(|part| part > 0 && whole.is_multiple_of(part))
                };
                Some(divides(module.outputs, size(0)) && divides(module.inputs, size(1)))
            }
            _ => None,
        }
    }
}
