//! Ops that move numbers: joining, cutting, enlarging, looking up. What is only moved must arrive bit by bit.

use super::{Case, Tolerance, Trial};
use crate::error::Result;
use crate::tensor::Tensor;

fn channels(trial: &mut Trial<'_>, outer: &[usize], widths: &[usize]) -> Result<()> {
    let mut parts = Vec::new();
    for &width in widths {
        parts.push(trial.input(&[outer, &[width]].concat())?);
    }
    let backend = trial.backend();
    let joined = backend.concat_channels(&parts.iter().collect::<Vec<_>>())?;
    trial.output("joined", &joined, Tolerance::Exact)?;
    let mut start = 0;
    for &width in widths {
        trial.output("cut", &backend.slice_channels(&joined, start, width)?, Tolerance::Exact)?;
        start += width;
    }
    trial.refused("a cut beyond the end", backend.slice_channels(&joined, start, 1))
}

fn rows(trial: &mut Trial<'_>, counts: &[usize], inner: &[usize]) -> Result<()> {
    let mut parts = Vec::new();
    for &count in counts {
        parts.push(trial.input(&[&[count], inner].concat())?);
    }
    let backend = trial.backend();
    let joined = backend.concat_rows(&parts.iter().collect::<Vec<_>>())?;
    trial.output("joined", &joined, Tolerance::Exact)?;
    let mut start = 0;
    for &count in counts {
        trial.output("cut", &backend.slice_rows(&joined, start, count)?, Tolerance::Exact)?;
        start += count;
    }
    trial.refused("a cut beyond the end", backend.slice_rows(&joined, start, 1))
}

fn upsample(trial: &mut Trial<'_>, x: [usize; 4], size: [usize; 2]) -> Result<()> {
    let [n, h, w, c] = x;
    let (x, dy) = (trial.input(&x)?, trial.input(&[n, size[0], size[1], c])?);
    let backend = trial.backend();
    trial.output("y", &backend.upsample_nearest(&x, size)?, Tolerance::Exact)?;
    trial.output("dx", &backend.upsample_nearest_grad(&dy, [h, w])?, Tolerance::Sum)
}

fn embedding(trial: &mut Trial<'_>, rows: usize, c: usize, ids: &[usize]) -> Result<()> {
    let table = trial.input(&[rows, c])?;
    let dy = trial.input(&[ids, &[c]].concat())?;
    let ids = trial.ids(ids, rows as i64)?;
    let backend = trial.backend();
    trial.output("y", &backend.embedding(&table, &ids)?, Tolerance::Exact)?;
    trial.gradient("dtable", &backend.embedding_grad(&dy, &ids, rows)?, Tolerance::Sum)?;
    for id in [-1, rows as i64, i64::MIN] {
        let ids = backend.upload(&Tensor::from_slice(&[id], &[1])?)?;
        trial.refused("an id outside of the table", backend.embedding(&table, &ids))?;
    }
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let joins: [(&'static [usize], &'static [usize]); 5] = [
        (&[1], &[1]),
        (&[2, 5], &[3, 4]),
        (&[2, 3, 3], &[320, 7, 64]),
        (&[77], &[16, 16]),
        (&[1, 9, 7], &[96, 32]),
    ];
    for (outer, widths) in joins {
        let label = format!("{outer:?} x {widths:?}");
        cases.push(Case::new("concat_channels", label, move |trial| channels(trial, outer, widths)));
        let label = format!("{widths:?} x {outer:?}");
        cases.push(Case::new("concat_rows", label, move |trial| rows(trial, widths, outer)));
    }
    let enlargements = [
        ([2, 3, 5, 7], [6, 10]),
        ([2, 3, 5, 7], [7, 11]),
        ([1, 3, 5, 64], [5, 9]),
        ([1, 1, 1, 3], [3, 2]),
        ([1, 8, 8, 32], [16, 16]),
        ([1, 4, 6, 5], [4, 6]),
    ];
    for (x, size) in enlargements {
        let label = format!("{x:?} to {size:?}");
        cases.push(Case::new("upsample_nearest", label, move |trial| upsample(trial, x, size)));
    }
    let tables: [(usize, usize, &'static [usize]); 4] =
        [(1, 1, &[1]), (49, 33, &[2, 77]), (5, 768, &[3, 4]), (1000, 16, &[77])];
    for (rows, c, ids) in tables {
        let label = format!("{ids:?} of {rows} x {c}");
        cases.push(Case::new("embedding", label, move |trial| embedding(trial, rows, c, ids)));
    }
    cases
}
