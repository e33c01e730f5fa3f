//! `scumble bench compare`: another program and this one take turns, so that both meet the same machine, whatever else it
//! does meanwhile; what counts is the median over the rounds.
//!
//! The peer is a command that the user gives; it runs in the system's shell and prints a JSON object as its last line.
//! Ours is this program again, as a process of its own: neither side finds the other's memory warm. Numbers that both
//! objects have under the same name are compared, peer / ours: above 1, this program takes less.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::{CompareArgs, median, rounded};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Endings of names of what is measured: seconds and memory. Others are settings.
const MEASURED: [&str; 2] = ["_s", "_gb"];

/// Measures and prints.
pub fn run(context: &Context, args: &CompareArgs) -> Result {
    if args.rounds == 0 {
        return Err(Failure::usage("--rounds is at least 1"));
    }
    let kind = args.ours.first().map(String::as_str).unwrap_or_default();
    if !["step", "text", "generate", "vae"].contains(&kind) {
        return Err(Failure::usage(format!("`{kind}` can't be compared"))
            .hint("after `--` comes step, text, generate or vae with its options"));
    }
    let mut rounds: BTreeMap<String, Vec<[f64; 2]>> = BTreeMap::new();
    for round in 1..=args.rounds {
        context.terminal.status(&format!("round {round} of {}: peer", args.rounds));
        let peer = numbers("the peer", shell(&args.peer))?;
        context.terminal.status(&format!("round {round} of {}: ours", args.rounds));
        let ours = numbers("this program", ours(context, &args.ours)?)?;
        let pairs = common(&ours, &peer);
        // So that a long comparison that is cut off has said something.
        let said = pairs.iter().map(|(name, [ours, peer])| format!("{name} {ours:.3} against {peer:.3}"));
        let said = said.collect::<Vec<_>>().join(", ");
        context.terminal.status(&format!("round {round} of {}: {said}", args.rounds));
        for (name, pair) in pairs {
            rounds.entry(name).or_default().push(pair);
        }
    }
    rounds.retain(|_, pairs| pairs.len() == args.rounds);
    if rounds.is_empty() {
        return Err(Failure::new("the two print no number under the same name")
            .hint(format!("compared are names that end in {}", MEASURED.join(" or "))));
    }
    print(context, args, &rounds);
    Ok(Outcome::Done)
}

fn print(context: &Context, args: &CompareArgs, rounds: &BTreeMap<String, Vec<[f64; 2]>>) {
    let middle =
        |pairs: &[[f64; 2]], of: fn(&[f64; 2]) -> f64| rounded(median(pairs.iter().map(of).collect()), 4);
    let row = |pairs: &[[f64; 2]]| {
        [
            middle(pairs, |pair| pair[0]),
            middle(pairs, |pair| pair[1]),
            middle(pairs, |pair| pair[1] / pair[0]),
        ]
    };
    if args.json {
        let fields: Map<String, Value> = rounds
            .iter()
            .map(|(name, pairs)| {
                let [ours, peer, ratio] = row(pairs);
                (name.clone(), json!({ "ours": ours, "peer": peer, "ratio": ratio }))
            })
            .collect();
        let line = json!({ "ours": args.ours.join(" "), "peer": args.peer, "rounds": args.rounds, "medians": fields });
        context.terminal.result(&line.to_string());
        return;
    }
    context.terminal.result(&format!("{:<16} {:>10} {:>10} {:>12}", "", "ours", "peer", "peer / ours"));
    for (name, pairs) in rounds {
        let [ours, peer, ratio] = row(pairs);
        context.terminal.result(&format!("{name:<16} {ours:>10.3} {peer:>10.3} {ratio:>12.2}"));
    }
}

/// This program's measurement.
fn ours(context: &Context, args: &[String]) -> Result<Command> {
    let program =
        std::env::current_exe().map_err(|error| Failure::new(format!("can't find this program: {error}")))?;
    let mut command = Command::new(program);
    command.args(["bench"]).args(args).args(["--json", "--quiet"]);
    if let Some(threads) = context.global.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    Ok(command)
}

#[cfg(unix)]
fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    command
}

#[cfg(not(unix))]
fn shell(line: &str) -> Command {
    let mut command = Command::new("cmd");
    command.args(["/C", line]);
    command
}

/// Runs a command and reads the object in the last line that it prints.
fn numbers(who: &str, mut command: Command) -> Result<BTreeMap<String, f64>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("can't start {who}: {error}")))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = |text: &str| {
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
    };
    if !output.status.success() {
        return Err(Failure::new(format!("{who} failed with {}: {}", output.status, last(&errors))));
    }
    let line = last(&String::from_utf8_lossy(&output.stdout));
    parse(&line)
        .ok_or_else(|| Failure::new(format!("{who} prints no JSON object as its last line, but `{line}`")))
}

/// The measured numbers of an object.
fn parse(line: &str) -> Option<BTreeMap<String, f64>> {
    let object: Map<String, Value> = serde_json::from_str(line).ok()?;
    let measured = |name: &String| MEASURED.iter().any(|ending| name.ends_with(ending));
    let numbers = object.into_iter().filter(|(name, _)| measured(name));
    Some(numbers.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect())
}

/// What both have, and ours is no zero to divide by.
fn common(ours: &BTreeMap<String, f64>, peer: &BTreeMap<String, f64>) -> Vec<(String, [f64; 2])> {
    let pairs = ours.iter().filter(|(_, value)| **value > 0.0);
    pairs.filter_map(|(name, &ours)| Some((name.clone(), [ours, *peer.get(name)?]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_measured_numbers_of_both_are_compared() {
        let ours =
            parse(r#"{"step_s": 2.0, "peak_rss_gb": 0.0, "batch": 1, "arch_s": "sd15", "forward_s": 0.5}"#);
        let peer = parse(r#"{"step_s": 5.0, "peak_rss_gb": 4.0, "batch": 1, "other_s": 3}"#);
        assert_eq!(common(&ours.unwrap(), &peer.unwrap()), [("step_s".to_owned(), [2.0, 5.0])]);
        assert!(parse("[1]").is_none() && parse("done").is_none());
    }
}
