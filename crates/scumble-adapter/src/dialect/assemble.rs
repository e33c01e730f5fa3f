//! From the parts of one module to its factors: which kind they make, and why they make none.

use std::collections::BTreeMap;

use scumble_tensor::{DType, Tensor};

use super::part::{Part, Side};
use crate::adapter::{
    Axis, Change, HadamardFactors, HadamardSide, KroneckerFactor, KroneckerFactors, LowRankFactors,
    Magnitude, ModuleFactors, TuckerFactors,
};
use crate::error::{AdapterError, Result};
use crate::table::Module;

/// One module's tensors with their keys.
pub(super) struct Parts<'p> {
    pub module: &'p Module,
    pub keys: &'p BTreeMap<Part, String>,
    pub tensors: BTreeMap<Part, Tensor>,
    /// Alpha by rank, where the file keeps it outside its tensors; otherwise alpha is the rank.
    pub rule: Option<&'p dyn Fn(usize) -> f32>,
}

/// What is wrong with the parts, in words.
type Fault = String;

impl Parts<'_> {
    /// The outer error is the engine's, the inner one says why this module cannot be used.
    pub fn assemble(mut self) -> Result<std::result::Result<ModuleFactors, Fault>> {
        match self.build() {
            Ok(factors) => Ok(factors.shaped_for(self.module)),
            Err(AdapterError::Factors { what, .. }) => Ok(Err(what)),
            Err(other) => Err(other),
        }
    }

    fn build(&mut self) -> Result<ModuleFactors> {
        self.check_pairs()?;
        let change = self.change()?;
        let scale = change.as_ref().map_or(1.0, Change::scale);
        let bias = match (self.take(Part::DiffBias), self.take(Part::UpBias)) {
            (Some(_), Some(_)) => return self.fault("two differences for one bias".into()),
            (Some(bias), None) => Some(bias),
            (None, Some(bias)) => Some(multiplied(&bias, scale)?),
            (None, None) => None,
        };
        let magnitude = self.magnitude()?;
        self.check_taken(change.as_ref())?;
        ModuleFactors::new(&self.module.path, change, bias, magnitude)
    }

    /// A part that nothing took would be lost without a word. Only alpha may stay: writers add it to every kind.
    fn check_taken(&self, change: Option<&Change>) -> Result<()> {
        let Some(part) = self.tensors.keys().find(|part| **part != Part::Alpha) else { return Ok(()) };
        let key = self.keys.get(part).map(String::as_str).unwrap_or_default();
        let kind = change.map_or("bias difference", Change::kind);
        self.fault(format!("`{key}` has no meaning beside its {kind}"))
    }

    fn fault<T>(&self, what: String) -> Result<T> {
        Err(AdapterError::Factors { module: self.module.path.clone(), what })
    }

    fn take(&mut self, part: Part) -> Option<Tensor> {
        self.tensors.remove(&part)
    }

    fn has(&self, part: Part) -> bool {
        self.keys.contains_key(&part)
    }

    /// Parts that need another, and kinds that exclude each other.
    fn check_pairs(&self) -> Result<()> {
        use Part::{Diff, Down, Hada1, Hada2, Lokr1, Lokr2, Mid, Up};
        let key = |part: Part| self.keys.get(&part).map(String::as_str).unwrap_or_default();
        for (part, other, what) in [
            (Down, Up, "up factor"),
            (Up, Down, "down factor"),
            (Mid, Down, "down factor"),
            (Hada1(Side::A), Hada1(Side::B), "w1_b"),
            (Hada1(Side::B), Hada1(Side::A), "w1_a"),
            (Hada1(Side::Core), Hada1(Side::A), "w1_a"),
            (Hada1(Side::A), Hada2(Side::A), "w2_a"),
            (Hada2(Side::A), Hada1(Side::A), "w1_a"),
            (Hada2(Side::A), Hada2(Side::B), "w2_b"),
            (Hada2(Side::B), Hada2(Side::A), "w2_a"),
            (Hada2(Side::Core), Hada2(Side::A), "w2_a"),
            (Lokr1(Side::A), Lokr1(Side::B), "w1_b"),
            (Lokr1(Side::B), Lokr1(Side::A), "w1_a"),
            (Lokr2(Side::A), Lokr2(Side::B), "w2_b"),
            (Lokr2(Side::B), Lokr2(Side::A), "w2_a"),
            (Lokr2(Side::Core), Lokr2(Side::A), "w2_a"),
        ] {
            if self.has(part) && !self.has(other) {
                return self.fault(format!("`{}` has no {what}", key(part)));
            }
        }
        let kinds: Vec<&str> = [Down, Hada1(Side::A), Lokr1(Side::Whole), Lokr1(Side::A), Diff]
            .into_iter()
            .filter(|part| self.has(*part))
            .map(key)
            .collect();
        if kinds.len() > 1 {
            return self.fault(format!("`{}` and `{}` are changes of two kinds", kinds[0], kinds[1]));
        }
        let decoration = |part: &Part| matches!(part, Part::Alpha | Part::Scale | Part::Scalar);
        if self.keys.keys().all(decoration) {
            return self.fault("an alpha without factors".into());
        }
        Ok(())
    }

    fn change(&mut self) -> Result<Option<Change>> {
        let path = self.module.path.clone();
        if let (Some(down), Some(up)) = (self.take(Part::Down), self.take(Part::Up)) {
            let (mid, rank) = (self.take(Part::Mid), down.shape().first());
            let alpha = self.alpha(rank)?;
            return Ok(Some(match mid {
                None => Change::LowRank(LowRankFactors::new(&path, down, up, alpha)?),
                Some(mid) => Change::Tucker(TuckerFactors::new(&path, down, mid, up, alpha)?),
            }));
        }
        if let (Some(a), Some(b)) = (self.take(Part::Hada1(Side::A)), self.take(Part::Hada1(Side::B))) {
            let rank = b.shape().first();
            let first = HadamardSide { a, b, core: self.take(Part::Hada1(Side::Core)) };
            let (Some(a), Some(b)) = (self.take(Part::Hada2(Side::A)), self.take(Part::Hada2(Side::B)))
            else {
                return self.fault("it has no second product".into());
            };
            let second = HadamardSide { a, b, core: self.take(Part::Hada2(Side::Core)) };
            let alpha = self.alpha(rank)?;
            return Ok(Some(Change::Hadamard(HadamardFactors::new(&path, [first, second], alpha)?)));
        }
        let lokr =
            [Part::Lokr1, Part::Lokr2].map(|part| self.has(part(Side::Whole)) || self.has(part(Side::A)));
        if lokr != [false, false] {
            let (Some(w1), Some(w2)) = (self.kronecker(Part::Lokr1)?, self.kronecker(Part::Lokr2)?) else {
                return self.fault("its Kronecker product has one matrix only".into());
            };
            let rank = |factor: &KroneckerFactor| match factor {
                KroneckerFactor::Whole(_) => None,
                KroneckerFactor::Pair { b, .. } | KroneckerFactor::Tucker { b, .. } => {
                    Some(b.shape().first())
                }
            };
            let (w1, alpha) = match rank(&w2).or(rank(&w1)) {
                Some(rank) => (w1, self.alpha(rank)?),
                None => self.whole_product(w1)?,
            };
            return Ok(Some(Change::Kronecker(KroneckerFactors::new(&path, w1, w2, alpha)?)));
        }
        Ok(self.take(Part::Diff).map(Change::Full))
    }

    fn kronecker(&mut self, part: fn(Side) -> Part) -> Result<Option<KroneckerFactor>> {
        let sides = [Side::Whole, Side::A, Side::B, Side::Core].map(|side| self.take(part(side)));
        Ok(match sides {
            [None, None, None, None] => None,
            [Some(whole), None, None, None] => Some(KroneckerFactor::Whole(whole)),
            [None, Some(a), Some(b), None] => Some(KroneckerFactor::Pair { a, b }),
            [None, Some(a), Some(b), Some(core)] => Some(KroneckerFactor::Tucker { a, b, core }),
            _ => return self.fault("one of its matrices is there both whole and in factors".into()),
        })
    }

    /// One number; an error unless the tensor holds exactly one.
    fn number(&mut self, part: Part) -> Result<Option<f32>> {
        let Some(tensor) = self.take(part) else { return Ok(None) };
        if tensor.numel() != 1 {
            let key = self.keys.get(&part).map(String::as_str).unwrap_or_default();
            return self.fault(format!("`{key}` has shape {}, expected one number", tensor.shape()));
        }
        Ok(Some(tensor.item::<f32>()?))
    }

    /// Alpha with everything that the product is multiplied with; no factor is rounded for it.
    fn alpha(&mut self, rank: usize) -> Result<f32> {
        let (alpha, scale) = (self.number(Part::Alpha)?, self.number(Part::Scale)?);
        let alpha = match (scale, alpha, self.rule) {
            (Some(scale), _, _) => scale * rank as f32,
            (None, Some(alpha), _) => alpha,
            (None, None, Some(rule)) => rule(rank),
            (None, None, None) => rank as f32,
        };
        Ok(alpha * self.number(Part::Scalar)?.unwrap_or(1.0))
    }

    /// Two whole matrices: no alpha counts, so the small one takes the scalar, in f32.
    fn whole_product(&mut self, w1: KroneckerFactor) -> Result<(KroneckerFactor, f32)> {
        let alpha = self.number(Part::Alpha)?.unwrap_or(1.0);
        Ok(match (w1, self.number(Part::Scalar)?) {
            (KroneckerFactor::Whole(w1), Some(scalar)) => {
                (KroneckerFactor::Whole(multiplied(&w1.to_dtype(DType::F32)?, scalar)?), alpha)
            }
            (w1, _) => (w1, alpha),
        })
    }

    fn magnitude(&mut self) -> Result<Option<Magnitude>> {
        let module = self.module;
        if let Some(tensor) = self.take(Part::Magnitude) {
            return Ok(Some(Magnitude::new(&module.path, &tensor, Axis::Output)?));
        }
        let Some(tensor) = self.take(Part::DoraScale) else { return Ok(None) };
        let axis = match *tensor.dims() {
            [outputs] | [outputs, 1] | [outputs, 1, 1, 1] if outputs == module.outputs => Axis::Output,
            [1, inputs] | [1, inputs, 1, 1] if inputs == module.inputs => Axis::Input,
            _ => {
                return self.fault(format!(
                    "its DoRA scale has shape {}, expected [{}, 1] or [1, {}]",
                    tensor.shape(),
                    module.outputs,
                    module.inputs
                ));
            }
        };
        Ok(Some(Magnitude::new(&module.path, &tensor, axis)?))
    }
}

/// Every number multiplied in f32 and rounded to the tensor's own type.
pub(super) fn multiplied(tensor: &Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok(tensor.clone());
    }
    let values: Vec<f32> = tensor.to_vec::<f32>()?.into_iter().map(|value| value * factor).collect();
    Ok(Tensor::from_slice(&values, tensor.dims())?.to_dtype(tensor.dtype())?)
}
