//! The trials as tables for people, and the sheet that shows what the numbers mean.

use scumble_train::picture::{Picture, Sheet, SheetRow};

use super::{Course, Method, Regime, Trial};
use crate::prompts;

/// Rows of the sheet: so many of the set's prompts, so many of the world's.
const SHOWN: [usize; 2] = [4, 2];

const HEADER: [&str; 9] = [
    "method",
    "updates",
    "image alignment",
    "gain / full",
    "text alignment",
    "drift",
    "s / update",
    "train s",
    "file",
];

/// One table for each set and way of counting, in Markdown.
pub fn markdown(trials: &[Trial]) -> String {
    tables(trials)
        .into_iter()
        .map(|(title, rows)| {
            let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
            let mut lines = vec![format!("### {title}\n"), line(&HEADER.map(str::to_owned))];
            lines.push(format!("|---|{}", "---:|".repeat(HEADER.len() - 1)));
            lines.extend(rows.iter().map(|row| line(row)));
            lines.join("\n") + "\n"
        })
        .chain(verdicts(trials).into_iter().map(|verdict| format!("* {verdict}\n")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The same in columns for a terminal.
pub fn text(trials: &[Trial]) -> String {
    let mut out = Vec::new();
    for (title, rows) in tables(trials) {
        let all: Vec<Vec<String>> = std::iter::once(HEADER.map(str::to_owned).to_vec())
            .chain(rows.into_iter().map(Vec::from))
            .collect();
        let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
        out.push(title);
        for row in &all {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            out.push(format!("  {}", cells.collect::<Vec<_>>().join("  ")));
        }
        out.push(String::new());
    }
    out.extend(verdicts(trials));
    out.join("\n").trim_end().to_owned()
}

/// The share of full fine-tuning's gain that an adapter should have at least.
const ENOUGH: f64 = 0.9;

/// For each set the adapter against full fine-tuning at equal updates, and the same at the least strength that gains
/// enough, if it was worn at several. Empty without both.
pub fn verdicts(trials: &[Trial]) -> Vec<String> {
    let mut sets: Vec<&str> = trials.iter().map(|trial| trial.set).collect();
    sets.dedup();
    let verdict = |set: &str| {
        let table: Vec<&Trial> =
            trials.iter().filter(|trial| trial.set == set && trial.regime != Regime::EqualTime).collect();
        let of = |method: Method| table.iter().find(|trial| trial.method == method).copied();
        let (lora, full) = (of(Method::Lora)?, of(Method::Full)?);
        let gain = match gain_against_full(lora, &table) {
            Some(gain) => format!("{:.0} % of full fine-tuning's gain in image alignment", 100.0 * gain),
            None => "no gain to compare with, for full fine-tuning has none in image alignment".to_owned(),
        };
        let drift = |trial: &Trial| trial.drift.as_ref().map_or(0.0, |drift| drift.drift.mean);
        Some(format!(
            "{set}: the adapter on the UNet has {gain}, drift {:.4} against {:.4}, and takes {:.2} of its time an \
             update and {:.3} of its file",
            drift(lora),
            drift(full),
            lora.step_seconds / full.step_seconds.max(1e-12),
            lora.file_bytes as f64 / (full.file_bytes as f64).max(1.0),
        ))
    };
    let weakest = |set: &str| {
        let table: Vec<&Trial> =
            trials.iter().filter(|trial| trial.set == set && trial.regime != Regime::EqualTime).collect();
        let full = table.iter().find(|trial| trial.method == Method::Full)?.drift.as_ref()?.drift.mean;
        let enough = |trial: &&&Trial| gain_against_full(trial, &table).is_some_and(|gain| gain >= ENOUGH);
        let worn = table.iter().filter(|trial| trial.method == Method::Lora && trial.strength < 1.0);
        let worn = worn.filter(enough).min_by(|a, b| a.strength.total_cmp(&b.strength))?;
        Some(format!(
            "{set}: worn at strength {} the adapter still has {:.0} % of that gain, and drift {:.4} against {full:.4}",
            worn.strength,
            100.0 * gain_against_full(worn, &table)?,
            worn.drift.as_ref()?.drift.mean,
        ))
    };
    sets.into_iter().flat_map(|set| [verdict(set), weakest(set)]).flatten().collect()
}

type Table = (String, Vec<[String; 9]>);

fn tables(trials: &[Trial]) -> Vec<Table> {
    let mut sets: Vec<&str> = trials.iter().map(|trial| trial.set).collect();
    sets.dedup();
    let mut tables = Vec::new();
    for set in sets {
        for (regime, title) in [(Regime::EqualSteps, "equal updates"), (Regime::EqualTime, "equal time")] {
            let of_set = || trials.iter().filter(|trial| trial.set == set);
            // The adapter's run sets the time, so it stands in both tables.
            let belongs = |trial: &&Trial| {
                trial.regime == Regime::Untrained
                    || trial.regime == regime
                    || (regime == Regime::EqualTime && trial.method == Method::Lora)
            };
            if !of_set().any(|trial| trial.regime == regime) {
                continue;
            }
            let rows: Vec<&Trial> = of_set().filter(belongs).collect();
            tables.push((format!("{set}, {title}"), rows.iter().map(|trial| row(trial, &rows)).collect()));
        }
    }
    tables
}

/// Share of full fine-tuning's gain in image alignment; `None` where that gained nothing.
pub fn gain_against_full(trial: &Trial, table: &[&Trial]) -> Option<f64> {
    let of = |method: Method| {
        table.iter().find(|trial| trial.method == method).map(|trial| trial.image_alignment.mean)
    };
    let (none, full) = (of(Method::None)?, of(Method::Full)?);
    (full > none).then(|| (trial.image_alignment.mean - none) / (full - none))
}

fn row(trial: &Trial, table: &[&Trial]) -> [String; 9] {
    let is_trained = trial.method != Method::None;
    let when = |value: String| if is_trained { value } else { "-".into() };
    let gain = gain_against_full(trial, table).filter(|_| is_trained);
    [
        label(trial),
        when(trial.steps.to_string()),
        format!("{:.4} ± {:.4}", trial.image_alignment.mean, trial.image_alignment.error),
        gain.map_or("-".into(), |gain| format!("{:.0} %", 100.0 * gain)),
        format!("{:.4} ± {:.4}", trial.text_alignment.mean, trial.text_alignment.error),
        trial.drift.as_ref().map_or("-".into(), |drift| format!("{:.4}", drift.drift.mean)),
        when(format!("{:.3}", trial.step_seconds)),
        when(format!("{:.1}", trial.train_seconds)),
        when(size(trial.file_bytes)),
    ]
}

fn label(trial: &Trial) -> String {
    let name = trial.method.label();
    if trial.strength == 1.0 { name.to_owned() } else { format!("{name}, at strength {}", trial.strength) }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Prompts from top to bottom, methods from left to right; the first seed of each.
pub(super) fn sheet(course: &Course<'_>, columns: &[(Method, Vec<Picture>, Vec<Picture>)]) -> Sheet {
    let each = course.comparison.seeds.len().max(1);
    let of_set = prompts::of_set(course.set, course.set.name()).into_iter().map(|prompt| prompt.painted);
    let row = |label: String, pictures: Vec<Option<Picture>>| SheetRow { label, pictures };
    let mut rows = Vec::new();
    for (index, label) in of_set.take(SHOWN[0]).enumerate() {
        rows.push(row(label, columns.iter().map(|column| column.1.get(index * each).cloned()).collect()));
    }
    for (index, text) in course.drift_texts.iter().take(SHOWN[1]).enumerate() {
        let pictures = columns.iter().map(|column| column.2.get(index * each).cloned()).collect();
        rows.push(row(format!("{text} (not about it)"), pictures));
    }
    Sheet {
        title: format!("learning a new {}", if course.set.style().is_some() { "style" } else { "subject" }),
        subtitle: format!(
            "{}, {} updates, the same noise in each row",
            course.set.name(),
            course.comparison.steps
        ),
        columns: columns.iter().map(|(method, ..)| method.label().to_owned()).collect(),
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Drift;
    use crate::measure::Mean;

    fn trial(method: Method, regime: Regime, image: f64) -> Trial {
        let mean = |mean| Mean { mean, error: 0.01, count: 4 };
        Trial {
            set: "robot",
            method,
            regime,
            strength: 1.0,
            steps: 10,
            step_seconds: 0.25,
            train_seconds: 2.5,
            trained: 7,
            file_bytes: 1_500_000,
            text_alignment: mean(0.3),
            image_alignment: mean(image),
            drift: None,
        }
    }

    #[test]
    fn tables_compare_with_full_fine_tuning() {
        let trials = [
            trial(Method::None, Regime::Untrained, 0.4),
            trial(Method::Lora, Regime::EqualSteps, 0.58),
            trial(Method::Full, Regime::EqualSteps, 0.6),
            trial(Method::Full, Regime::EqualTime, 0.5),
        ];
        let text = markdown(&trials);
        assert!(
            text.contains("### robot, equal updates") && text.contains("### robot, equal time"),
            "{text}"
        );
        let cells = |title: &str, method: &str| -> Vec<String> {
            let table = text.split("### ").find(|table| table.starts_with(title)).unwrap();
            let line = table.lines().find(|line| line.starts_with(&format!("| {method}"))).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(cells("robot, equal updates", "LoRA")[4], "90 %");
        assert_eq!(cells("robot, equal time", "LoRA")[4], "180 %");
        assert_eq!(cells("robot, equal updates", "no training")[4], "-");
        assert_eq!(cells("robot, equal updates", "LoRA")[9], "1.5 MB");
        let verdicts = verdicts(&trials);
        assert_eq!(verdicts.len(), 1);
        assert!(verdicts[0].contains("90 %") && verdicts[0].contains("1.00 of its time"), "{verdicts:?}");
        let weaker = |strength: f64, image: f64, drift: f64| {
            let mean = Mean { mean: drift, error: 0.0, count: 4 };
            let drift =
                Drift { drift: mean, pixels: mean, text_alignment_before: mean, text_alignment_after: mean };
            Trial { strength, drift: Some(drift), ..trial(Method::Lora, Regime::EqualSteps, image) }
        };
        let mut worn = trials.to_vec();
        worn[2].drift = weaker(1.0, 0.6, 0.07).drift;
        worn.extend([weaker(0.7, 0.59, 0.05), weaker(0.5, 0.5, 0.02)]);
        let sentence = &super::verdicts(&worn)[1];
        assert!(
            sentence.contains("strength 0.7") && sentence.contains("0.0500 against 0.0700"),
            "{sentence}"
        );
        assert!(markdown(&worn).contains("| LoRA, UNet, at strength 0.5 |"));
        let plain = super::text(&trials);
        assert!(plain.lines().count() > 8 && !plain.contains('|'), "{plain}");
    }
}
