//! Learned tokens of several adapters in one: no name may stand for two embeddings.
//!
//! | mode | rule |
//! |---|---|
//! | lpl | the first adapter's row is kept, as in the original |
//! | ljl | all are renamed `<s{file}-{j}>`, `j` counting the sorted tokens of a file, as in the original |
//! | others | a name keeps its owner; another embedding under it gets `name-2`, `name-3`, ... inside its brackets |

use std::collections::BTreeSet;

use super::{Input, Mode};
use crate::adapter::Adapter;
use crate::error::Result;

/// A token under a new name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// Which input it comes from.
    pub input: usize,
    /// Its name there.
    pub from: String,
    /// Its name in the result.
    pub to: String,
}

/// The tokens of the result.
pub(crate) struct Tokens {
    /// Nothing but tokens.
    pub adapter: Adapter,
    /// Those that have another name than they had.
    pub renamed: Vec<Renamed>,
}

/// Gathers the tokens of all inputs, with their rows for both text encoders where there are two.
pub(crate) fn gather(inputs: &[Input<'_>], mode: Mode) -> Result<Tokens> {
    let (mut all, mut renamed) = (Adapter::default(), Vec::new());
    let is_used = |all: &Adapter, name: &str| {
        let owners = inputs.iter().map(|input| input.adapter).chain([all]);
        owners.into_iter().any(|adapter| has(adapter, name))
    };
    for (input, Input { adapter, .. }) in inputs.iter().enumerate() {
        let names: BTreeSet<&String> = adapter.tokens.keys().chain(adapter.tokens_2.keys()).collect();
        for (index, token) in names.into_iter().enumerate() {
            let name = match mode {
                Mode::Ljl => format!("<s{input}-{index}>"),
                _ if !has(&all, token) => token.clone(),
                Mode::Lpl => continue,
                _ if same(&all, adapter, token)? => continue,
                _ => free_name(token, |name| is_used(&all, name)),
            };
            for (to, from) in [(&mut all.tokens, &adapter.tokens), (&mut all.tokens_2, &adapter.tokens_2)] {
                to.extend(from.get(token).map(|rows| (name.clone(), rows.clone())));
            }
            if name != *token {
                renamed.push(Renamed { input, from: token.clone(), to: name });
            }
        }
    }
    Ok(Tokens { adapter: all, renamed })
}

fn has(adapter: &Adapter, token: &str) -> bool {
    adapter.tokens.contains_key(token) || adapter.tokens_2.contains_key(token)
}

/// Whether a token is the same embedding in both.
fn same(a: &Adapter, b: &Adapter, token: &str) -> Result<bool> {
    for (a, b) in [(&a.tokens, &b.tokens), (&a.tokens_2, &b.tokens_2)] {
        let equal = match (a.get(token), b.get(token)) {
            (Some(a), Some(b)) => {
                a.dims() == b.dims() && a.dtype() == b.dtype() && a.bytes()? == b.bytes()?
            }
            (None, None) => true,
            _ => false,
        };
        if !equal {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `<s1>` becomes `<s1-2>`, the first number that nobody uses.
pub(crate) fn free_name(token: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let name = |number: usize| match token.strip_suffix('>') {
        Some(open) => format!("{open}-{number}>"),
        None => format!("{token}-{number}"),
    };
    let mut number = 2;
    while is_taken(&name(number)) {
        number += 1;
    }
    name(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::Weights;
    use scumble_tensor::Tensor;

    fn adapter(tokens: &[(&str, f32)]) -> Adapter {
        let rows = |value: f32| Tensor::from_slice(&[value; 3], &[1, 3]).unwrap();
        let tokens = tokens.iter().map(|&(name, value)| (name.to_owned(), rows(value))).collect();
        Adapter { tokens, ..Adapter::default() }
    }

    fn names(adapters: &[Adapter], mode: Mode) -> Vec<(String, f32)> {
        let inputs: Vec<Input<'_>> = adapters
            .iter()
            .map(|adapter| Input { name: "x".into(), adapter, weights: Weights::default() })
            .collect();
        let tokens = gather(&inputs, mode).unwrap().adapter.tokens;
        tokens.into_iter().map(|(name, rows)| (name, rows.to_vec::<f32>().unwrap()[0])).collect()
    }

    #[test]
    fn no_name_stands_for_two_embeddings() {
        let adapters = [
            adapter(&[("<s1>", 1.0)]),
            adapter(&[("<s1>", 2.0), ("<s1-2>", 3.0)]),
            adapter(&[("<s1>", 1.0)]),
        ];
        let expected = [("<s1-2>", 3.0), ("<s1-3>", 2.0), ("<s1>", 1.0)].map(|(n, v)| (n.to_owned(), v));
        assert_eq!(names(&adapters, Mode::Exact), expected);
        let ljl = [("<s0-0>", 1.0), ("<s1-0>", 3.0), ("<s1-1>", 2.0), ("<s2-0>", 1.0)];
        assert_eq!(names(&adapters, Mode::Ljl), ljl.map(|(n, v)| (n.to_owned(), v)));
        let lpl = [("<s1-2>", 3.0), ("<s1>", 1.0)].map(|(n, v)| (n.to_owned(), v));
        assert_eq!(names(&adapters, Mode::Lpl), lpl);
    }
}
