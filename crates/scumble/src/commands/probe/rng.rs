//! `probe rng`: recomputes the values of a list of random draws.
//!
//! `cases` each start from a fresh generator; `sequences` run their calls one after another on one generator.

use serde_json::{Value, json};

use scumble_tensor::rng::Generator;

use super::{RngArgs, read_json};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Reads the spec, recomputes every `out`, writes the JSON.
pub fn run(_: &Context, args: &RngArgs) -> Result {
    let mut spec = read_json(&args.spec)?;
    for case in entries(&mut spec, "cases") {
        let mut generator = Generator::new(seed(case)?);
        draw(&mut generator, case)?;
    }
    for sequence in entries(&mut spec, "sequences") {
        let mut generator = Generator::new(seed(sequence)?);
        for call in entries(sequence, "calls") {
            draw(&mut generator, call)?;
        }
    }
    let text = serde_json::to_string_pretty(&spec).map_err(|error| Failure::new(error.to_string()))?;
    super::write_text(&args.out, &text)?;
    Ok(Outcome::Done)
}

fn entries<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn seed(case: &Value) -> Result<u64> {
    let seed = case.get("seed");
    // Negative seeds wrap, as PyTorch has them.
    seed.and_then(|seed| seed.as_u64().or_else(|| seed.as_i64().map(i64::cast_unsigned)))
        .ok_or_else(|| Failure::new("an entry of the spec has no whole-number `seed`"))
}

fn draw(generator: &mut Generator, call: &mut Value) -> Result<()> {
    let op = call.get("op").and_then(Value::as_str).unwrap_or_default().to_owned();
    let n = call.get("arg").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let n = n.filter(|&n| n <= 1 << 28).ok_or_else(|| Failure::new(format!("`{op}` has no usable `arg`")))?;
    let out = match op.as_str() {
        "randn" => floats(&generator.randn(n)),
        "rand" => floats(&generator.rand(n)),
        "rand_f64" => json!(generator.rand_f64(n)),
        "randn_f64" => json!(generator.randn_f64(n)),
        "randperm" => json!(generator.randperm(n)),
        _ => match randint_bounds(&op) {
            Some((low, high)) => json!(generator.randint(low, high, n)?),
            None => {
                return Err(Failure::new(format!("unknown draw `{op}` in the spec"))
                    .hint("known are rand, rand_f64, randn, randn_f64, randperm and randint(low,high)"));
            }
        },
    };
    // The spec's own file calls the values `out`; a spec without results gets `values`.
    let key = if call.get("out").is_some() { "out" } else { "values" };
    call[key] = out;
    Ok(())
}

fn randint_bounds(op: &str) -> Option<(i64, i64)> {
    let (low, high) = op.strip_prefix("randint(")?.strip_suffix(')')?.split_once(',')?;
    Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
}

/// Shortest decimal texts that give the same f32 back, instead of the long tail of its f64 form.
fn floats(values: &[f32]) -> Value {
    values.iter().map(|value| value.to_string().parse::<f64>().map_or(Value::Null, Value::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_randint() {
        assert_eq!(randint_bounds("randint(0,1000)"), Some((0, 1000)));
        assert_eq!(randint_bounds("randint(-5, 5)"), Some((-5, 5)));
        assert_eq!(randint_bounds("randint(5)"), None);
    }

    #[test]
    fn a_case_is_recomputed() {
        let mut case = json!({"seed": 0, "op": "randint(0,1000)", "arg": 4, "out": [0]});
        draw(&mut Generator::new(seed(&case).unwrap()), &mut case).unwrap();
        assert_eq!(case["out"], json!([44, 239, 933, 760]));
        let mut unknown = json!({"seed": 0, "op": "dice", "arg": 4});
        assert!(draw(&mut Generator::new(0), &mut unknown).is_err());
    }
}
