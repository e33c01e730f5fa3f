//! The suite every backend must pass: each method, forward and backward, against [`ReferenceBackend`] on the same
//! inputs, over sizes that real models have and sizes that suit no kernel.
//!
//! A case is one closure over a [`Trial`]. It runs three times: on the reference in f64, and twice on the backend in
//! the element type under test. Inputs are rounded to that type first, so that both see the same numbers. The results
//! must agree within [`Tolerance`], the two runs byte for byte, and no operand may have changed.

mod adapter;
mod attention;
mod conv2d;
mod layout;
mod matmul;
mod norm;
mod pointwise;
mod training;
mod trial;

use crate::backend::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::HostBuffer;
use crate::reference::ReferenceBackend;
use crate::tensor::Device;

use trial::{Output, compare};
pub use trial::{Tolerance, Trial};

/// What a case does on one backend.
type Body = Box<dyn Fn(&mut Trial<'_>) -> Result<()> + Send + Sync>;

/// One op at one size.
pub struct Case {
    op: &'static str,
    label: String,
    body: Body,
}

impl Case {
    /// `label` says the sizes; together with `op` it also seeds the inputs.
    pub fn new(
        op: &'static str,
        label: impl Into<String>,
        body: impl Fn(&mut Trial<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { op, label: label.into(), body: Box::new(body) }
    }

    /// The op, named as in [`Backend`].
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// Sizes and options.
    pub fn label(&self) -> &str {
        &self.label
    }

    fn run(&self, backend: &dyn Backend, computed: DType, given: DType) -> Result<Vec<Output>> {
        let mut trial = Trial::new(backend, &format!("{} {}", self.op, self.label), computed, given);
        (self.body)(&mut trial)?;
        trial.finish()
    }

    /// Judges `backend` in `dtype`.
    pub fn check(&self, backend: &dyn Backend, dtype: DType) -> Outcome {
        match self.judge(backend, dtype) {
            Ok(outcome) => outcome,
            Err(error @ Error::Unsupported { .. }) => Outcome::Unsupported(error.to_string()),
            Err(error) => Outcome::Failed(vec![error.to_string()]),
        }
    }

    fn judge(&self, backend: &dyn Backend, dtype: DType) -> Result<Outcome> {
        let expected = self.run(&ReferenceBackend, DType::F64, dtype)?;
        let found = self.run(backend, dtype, dtype)?;
        if backend.device() == Device::Cpu {
            poison(&found)?;
        }
        let again = self.run(backend, dtype, dtype)?;
        let (mut worst, mut complaints) = (0.0f64, Vec::new());
        for ((expected, found), again) in expected.iter().zip(&found).zip(&again) {
            match compare(expected, found, dtype) {
                Ok(share) => worst = worst.max(share),
                Err(complaint) => complaints.push(complaint),
            }
            if found.bytes != again.bytes {
                complaints.push(format!("{}: a second run gave other bytes", found.name));
            }
        }
        Ok(if complaints.is_empty() { Outcome::Passed { worst } } else { Outcome::Failed(complaints) })
    }
}

/// Leaves blocks full of NaN for the next run to find: a kernel that reads what it did not write shows up.
fn poison(outputs: &[Output]) -> Result<()> {
    let blocks = outputs.iter().map(|output| HostBuffer::for_overwrite(output.bytes.len()));
    for mut block in blocks.collect::<Result<Vec<_>>>()? {
        block.as_mut_bytes().fill(0xFF);
    }
    Ok(())
}

/// The verdict on one case.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Within the tolerance, of which `worst` was used up (1 is all of it).
    Passed {
        /// Largest error as a share of what was allowed.
        worst: f64,
    },
    /// The backend says that it has no kernel for this.
    Unsupported(String),
    /// One line a wrong result.
    Failed(Vec<String>),
}

/// The verdicts on all cases.
pub struct Report {
    backend: String,
    dtype: DType,
    verdicts: Vec<(String, Outcome)>,
}

impl Report {
    /// Whether every case passed; a case without a kernel did not.
    pub fn is_clean(&self) -> bool {
        self.verdicts.iter().all(|(_, outcome)| matches!(outcome, Outcome::Passed { .. }))
    }

    /// `op and label`, verdict, in the order of the suite.
    pub fn verdicts(&self) -> &[(String, Outcome)] {
        &self.verdicts
    }
}

impl std::fmt::Display for Report {
    /// A summary line, then every case that did not pass.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passed = |(_, outcome): &&(String, Outcome)| matches!(outcome, Outcome::Passed { .. });
        let passed = self.verdicts.iter().filter(passed).count();
        writeln!(f, "{} in {}: {passed} of {} cases pass", self.backend, self.dtype, self.verdicts.len())?;
        for (name, outcome) in &self.verdicts {
            match outcome {
                Outcome::Passed { .. } => {}
                Outcome::Unsupported(what) => writeln!(f, "  {name}: {what}")?,
                Outcome::Failed(lines) => {
                    writeln!(f, "  {name}:")?;
                    lines.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
                }
            }
        }
        Ok(())
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let lists = [
        matmul::cases,
        conv2d::cases,
        norm::cases,
        attention::cases,
        pointwise::cases,
        layout::cases,
        training::cases,
        adapter::cases,
    ];
    lists.into_iter().flat_map(|list| list()).collect()
}

/// Judges `backend` in `dtype` by all cases. Tests assert [`Report::is_clean`] and print the report.
pub fn run(backend: &dyn Backend, dtype: DType) -> Report {
    run_some(backend, dtype, |_| true)
}

/// As [`run`], by those cases that `wanted` picks.
pub fn run_some(backend: &dyn Backend, dtype: DType, wanted: impl Fn(&Case) -> bool) -> Report {
    let judged = |case: Case| (format!("{} {}", case.op, case.label), case.check(backend, dtype));
    let verdicts = cases().into_iter().filter(wanted).map(judged).collect();
    Report { backend: backend.name(), dtype, verdicts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_passes_in_every_type() {
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            let report = run(&ReferenceBackend, dtype);
            assert!(report.is_clean(), "{report}");
            assert!(report.verdicts().len() > 100);
        }
    }

    fn verdict(body: impl Fn(&mut Trial<'_>) -> Result<()> + Send + Sync + 'static) -> Outcome {
        Case::new("fake", "case", body).check(&ReferenceBackend, DType::F32)
    }

    fn is_complaint(outcome: &Outcome, part: &str) -> bool {
        matches!(outcome, Outcome::Failed(lines) if lines.iter().any(|line| line.contains(part)))
    }

    #[test]
    fn a_small_error_a_nan_and_a_wrong_type_are_found() {
        let off_by = |error: f32| {
            verdict(move |trial| {
                let x = trial.input(&[100])?;
                let factor = if trial.dtype() == DType::F64 { 1.0 } else { 1.0 + error };
                let y = trial.backend().scale(&x, factor)?;
                trial.output("y", &y, Tolerance::Pointwise)
            })
        };
        assert!(matches!(off_by(0.0), Outcome::Passed { .. }));
        assert!(is_complaint(&off_by(1e-4), "allowed"));
        assert!(is_complaint(&off_by(f32::NAN), "NaN"));
        let wrong_type = verdict(|trial| {
            let x = trial.input(&[3])?;
            let narrow = if trial.dtype() == DType::F64 { DType::F64 } else { DType::BF16 };
            let y = trial.backend().cast(&x, narrow)?;
            trial.output("y", &y, Tolerance::Pointwise)
        });
        assert!(is_complaint(&wrong_type, "bf16"));
    }

    #[test]
    fn what_should_be_refused_and_is_not_is_found() {
        let outcome = verdict(|trial| trial.refused("nonsense", Ok(())));
        assert!(is_complaint(&outcome, "nonsense"), "{outcome:?}");
    }

    #[test]
    fn chance_between_runs_is_found() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let runs = AtomicU32::new(0);
        let outcome = verdict(move |trial| {
            let x = trial.input(&[8])?;
            let run = runs.fetch_add(1, Ordering::Relaxed) as f32;
            let y = trial.backend().scale(&x, 1.0 + run * f32::EPSILON)?;
            trial.output("y", &y, Tolerance::Sum)
        });
        assert!(is_complaint(&outcome, "second run"), "{outcome:?}");
    }
}
