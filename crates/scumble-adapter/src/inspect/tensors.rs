//! What any file of tensors shows, whatever it is: counts, types, groups by name, numbers that should not be there.

use std::collections::BTreeMap;

use scumble_model::files::{FileError, TensorSource};
use scumble_tensor::DType;
use serde::Serialize;

use crate::error::Result;
use crate::parallel;

/// Names are put together by their first part; a file of something else altogether has too many.
const MAX_GROUPS: usize = 40;
/// Tensors that are named among the findings.
const MAX_NAMED: usize = 20;
/// A view of few bytes can claim any size; what claims more is not read to look at its numbers.
const MAX_READ: usize = 1 << 31;

/// Tensors in figures.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TensorSummary {
    /// How many.
    pub tensors: usize,
    /// Their numbers.
    pub numbers: u64,
    /// Their bytes.
    #[serde(rename = "tensor_bytes")]
    pub bytes: u64,
    /// Element types, and how many tensors have each.
    pub dtypes: BTreeMap<String, usize>,
    /// Whether their numbers were looked at.
    pub scanned: bool,
    /// Tensors with numbers that are not finite, and how many; the first of them.
    pub not_finite: Vec<(String, usize)>,
    /// Tensors of more than one number that are zero throughout; the first of them.
    pub zero: Vec<String>,
    /// How many tensors are not finite, and how many zero.
    pub findings: (usize, usize),
}

/// Looks at all tensors of a source; at their numbers too if `scan`.
pub(super) fn summarise(source: &dyn TensorSource, scan: bool, threads: usize) -> Result<TensorSummary> {
    let names = source.names();
    let mut summary = TensorSummary { tensors: names.len(), scanned: scan, ..TensorSummary::default() };
    for info in names.iter().filter_map(|name| source.info(name)) {
        summary.numbers = summary.numbers.saturating_add(info.numel() as u64);
        summary.bytes = summary.bytes.saturating_add(info.bytes() as u64);
        *summary.dtypes.entry(info.dtype.to_string()).or_default() += 1;
    }
    if scan {
        let found = parallel::map(threads, &names, &|_| (), |name| Ok(scan_one(source, name)?))?;
        for (name, (bad, zero)) in names.into_iter().zip(found) {
            summary.findings.0 += usize::from(bad > 0);
            summary.findings.1 += usize::from(zero);
            if bad > 0 && summary.not_finite.len() < MAX_NAMED {
                summary.not_finite.push((name, bad));
            } else if zero && summary.zero.len() < MAX_NAMED {
                summary.zero.push(name);
            }
        }
    }
    Ok(summary)
}

/// How many numbers are not finite, and whether all are zero.
fn scan_one(source: &dyn TensorSource, name: &str) -> std::result::Result<(usize, bool), FileError> {
    let Some(info) = source.info(name) else { return Ok((0, false)) };
    if !info.dtype.is_float() || info.bytes() > MAX_READ {
        return Ok((0, false));
    }
    let tensor = source.read(name)?;
    let bytes = tensor.bytes().map_err(|error| FileError::engine(source.describe().as_ref(), name, error))?;
    let zero = info.numel() > 1 && bytes.iter().all(|byte| *byte == 0);
    Ok((not_finite(info.dtype, bytes), zero))
}

/// Counts numbers whose exponent bits are all set: infinities and NaNs, in any IEEE layout.
fn not_finite(dtype: DType, bytes: &[u8]) -> usize {
    let count16 = |mask: u16| {
        let numbers = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        numbers.filter(|bits| bits & mask == mask).count()
    };
    match dtype {
        DType::F16 => count16(0x7c00),
        DType::BF16 => count16(0x7f80),
        DType::F32 => {
            let numbers =
                bytes.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            numbers.filter(|bits| bits & 0x7f80_0000 == 0x7f80_0000).count()
        }
        DType::F64 => {
            // The exponent lies in the two highest bytes.
            let tops = bytes.chunks_exact(8).map(|eight| u16::from_le_bytes([eight[6], eight[7]]));
            tops.filter(|bits| bits & 0x7ff0 == 0x7ff0).count()
        }
        _ => 0,
    }
}

/// Tensors by the first part of their names.
pub(super) fn groups(source: &dyn TensorSource) -> Vec<(String, usize)> {
    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    for name in source.names() {
        let first = name.split(['.', ':']).next().unwrap_or_default();
        *groups.entry(super::training::cut(first)).or_default() += 1;
    }
    let mut groups: Vec<(String, usize)> = groups.into_iter().collect();
    if groups.len() > MAX_GROUPS {
        let rest: usize = groups[MAX_GROUPS - 1..].iter().map(|(_, count)| count).sum();
        groups.truncate(MAX_GROUPS - 1);
        groups.push(("others".into(), rest));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::MemorySource;
    use scumble_tensor::Tensor;

    #[test]
    fn each_type_shows_its_infinities() {
        let values = [1.0f32, f32::NAN, -2.0, f32::INFINITY, f32::NEG_INFINITY, 0.0, 6e4];
        let tensor = Tensor::from_slice(&values, &[7]).unwrap();
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            let tensor = tensor.to_dtype(dtype).unwrap();
            assert_eq!(not_finite(dtype, tensor.bytes().unwrap()), 3, "{dtype}");
        }
        let mut source = MemorySource { name: "memory".into(), ..MemorySource::default() };
        source.tensors.insert("a.b".into(), tensor);
        source.tensors.insert("a.c".into(), Tensor::zeros(DType::F16, &[2, 2]).unwrap());
        let summary = summarise(&source, true, 2).unwrap();
        assert_eq!(summary.not_finite, [("a.b".to_owned(), 3)]);
        assert_eq!((summary.zero, summary.numbers), (vec!["a.c".to_owned()], 11));
        assert_eq!(groups(&source), [("a".to_owned(), 2)]);
        assert!(!summarise(&source, false, 2).unwrap().scanned);
    }
}
