//! What a person sees of a run: phases, the plan, the progress line, what was saved.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use scumble_train::preflight::Plan;
use scumble_train::run::event::{Event, Reporter};

use crate::context::Context;
use crate::terminal::{Progress, duration};

/// Prints a run's events on standard error.
pub struct Watcher<'a> {
    context: &'a Context,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: String,
    phase_began: Option<Instant>,
    first_step: u64,
}

impl<'a> Watcher<'a> {
    /// Nothing seen yet.
    pub fn new(context: &'a Context) -> Self {
        Self { context, state: Mutex::default() }
    }
}

impl Reporter for Watcher<'_> {
    fn event(&self, event: Event) {
        let terminal = &self.context.terminal;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Phase(text) => {
                terminal.status(&text);
                state.phase = text;
                state.phase_began = Some(Instant::now());
            }
            Event::Progress { done, total } => terminal.progress(&Progress {
                unit: &state.phase,
                done: done as u64,
                total: total as u64,
                done_here: done as u64,
                elapsed: state.phase_began.map_or(Duration::ZERO, |began| began.elapsed()),
                extra: "",
            }),
            Event::Note(text) => terminal.status(&text),
            Event::Warning(text) => terminal.warning(&text),
            Event::Planned(plan) => terminal.status(&plan_text(&plan)),
            Event::Started { folder, done, steps } => {
                state.first_step = done;
                let from = if done > 0 { format!(", going on after step {done}") } else { String::new() };
                terminal.status(&format!("training {steps} steps into {}{from}", folder.display()));
            }
            Event::Step { record, steps, smooth_loss, per_second } => {
                let done_here = record.step - state.first_step.min(record.step);
                let extra = format!("loss {smooth_loss:.4}");
                terminal.progress(&Progress {
                    unit: "step",
                    done: record.step,
                    total: steps,
                    done_here,
                    elapsed: Duration::from_secs_f64((done_here as f64 / per_second.max(1e-9)).min(1e12)),
                    extra: &extra,
                });
            }
            Event::Tested { step, loss, best } => {
                let least = if best.0 == step {
                    "the least so far".to_owned()
                } else {
                    format!("the least was {:.4} after step {}", best.1, best.0)
                };
                let least = if step == 0 { "before training".to_owned() } else { least };
                terminal.status(&format!("step {step}: validation loss {loss:.4}, {least}"));
            }
            Event::Saved { step, files } => {
                for file in files {
                    terminal.detail(&format!("step {step}: saved {}", file.display()));
                }
            }
            Event::Picture { step, path, .. } => {
                terminal.detail(&format!("step {step}: painted {}", path.display()))
            }
            _ => {}
        }
    }
}

/// The plan as a table for people.
pub fn plan_text(plan: &Plan) -> String {
    let mut rows =
        vec![("base", format!("{} ({})", plan.base, plan.family)), ("pictures", pictures_text(plan))];
    for concept in &plan.data.concepts {
        let times =
            if concept.repeats > 1 { format!(", {} times a round", concept.repeats) } else { String::new() };
        let weight =
            if concept.weight == 1.0 { String::new() } else { format!(", weight {}", concept.weight) };
        rows.push(("", format!("{}: {}{times}{weight}", concept.name, concept.pictures)));
    }
    if plan.data.masks > 0 {
        rows.push(("masks", plan.data.masks.to_string()));
    }
    if plan.held_out > 0 {
        rows.push((
            "tested with",
            format!("{} picture{}", plan.held_out, if plan.held_out == 1 { "" } else { "s" }),
        ));
    }
    if plan.class_pictures + plan.class_pictures_to_paint > 0 {
        let missing = plan.class_pictures_to_paint;
        let to_paint = if missing > 0 { format!(", {missing} to be painted first") } else { String::new() };
        rows.push(("class pictures", format!("{}{to_paint}", plan.class_pictures)));
    }
    rows.push((
        "steps",
        format!(
            "{} of {} picture{}: {:.1} rounds through the folder",
            plan.steps,
            plan.samples_per_step,
            if plan.samples_per_step == 1 { "" } else { "s" },
            plan.epochs
        ),
    ));
    rows.push((
        "learning",
        match plan.modules {
            0 => format!("{} numbers", thousands(plan.trainable_parameters)),
            layers => format!("{} numbers in {layers} layers", thousands(plan.trainable_parameters)),
        },
    ));
    for file in &plan.files {
        rows.push(("result", format!("{}, {}", file.format, size(file.bytes))));
    }
    let again = match plan.recomputed_blocks {
        0 => String::new(),
        1 => ", 1 block computed again in backward".to_owned(),
        blocks => format!(", {blocks} blocks computed again in backward"),
    };
    rows.push(("memory", format!("about {}{again}", size(plan.memory_bytes))));
    rows.push((
        "time",
        format!("about {} ({:.2} s a step, estimated)", duration(plan.seconds), plan.seconds_per_step),
    ));
    rows.iter().map(|(name, value)| format!("  {name:<15} {value}")).collect::<Vec<_>>().join("\n")
}

/// How many pictures, and at which sizes.
fn pictures_text(plan: &Plan) -> String {
    let sizes: Vec<String> = plan
        .data
        .buckets
        .iter()
        .map(|size| format!("{} at {}x{}", size.count, size.width, size.height))
        .collect();
    match sizes.len() {
        0 | 1 => format!("{} at {}x{}", plan.data.pictures, plan.width, plan.height),
        _ => format!("{}: {}", plan.data.pictures, sizes.join(", ")),
    }
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} KB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1000, 797_184].map(thousands), ["0", "999", "1,000", "797,184"]);
        assert_eq!([500, 3_080_000, 4_200_000_000].map(size), ["0 KB", "3.1 MB", "4.2 GB"]);
    }
}
