//! The validation pictures of a run put together: one sheet with a column for each step, and one animation through them.
//!
//! `samples.png` has a row for each prompt; of many steps it shows [`MOST_COLUMNS`], the first and the last among them.
//! `samples.gif` shows all prompts side by side, step after step.

use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};
use crate::picture::table::{Labels, Table};
use crate::picture::{Animation, DecodeOptions, Picture, png, read};
use crate::tensorboard::Sample;

/// Most steps on the sheet.
const MOST_COLUMNS: usize = 12;
/// Most prompts that are shown.
const MOST_PROMPTS: usize = 16;
/// Most steps in the animation.
const MOST_FRAMES: usize = 200;
/// How long a picture stands, and the last one, in milliseconds.
const STANDS: [u32; 2] = [400, 2000];

/// The pictures in `folder`, by step and prompt. There need be none.
pub fn samples(folder: &Path) -> Result<Vec<Sample>> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io("reading", folder)(error)),
    };
    let of = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let (step, prompt) = name.strip_prefix("step-")?.strip_suffix(".png")?.split_once('-')?;
        Some(Sample { step: step.parse().ok()?, prompt: prompt.parse().ok()?, path: path.clone() })
    };
    let mut found = Vec::new();
    for entry in listed {
        found.extend(of(entry.map_err(TrainError::io("reading", folder))?.path()));
    }
    found.sort_by_key(|sample| (sample.step, sample.prompt));
    Ok(found)
}

/// Writes both files into `to`; does nothing where there are no two steps to compare.
pub fn write(title: &str, prompts: &[String], samples: &[Sample], to: [&Path; 2]) -> Result<()> {
    let mut steps: Vec<u64> = samples.iter().map(|sample| sample.step).collect();
    steps.dedup();
    let prompts = &prompts[..prompts.len().min(MOST_PROMPTS)];
    if steps.len() < 2 || prompts.is_empty() {
        return Ok(());
    }
    let picture = |step: u64, prompt: usize| -> Option<Picture> {
        let sample = samples.iter().find(|sample| (sample.step, sample.prompt) == (step, prompt))?;
        // A picture that was deleted leaves its place blank.
        read(&sample.path, &DecodeOptions::default()).ok()
    };
    let first = steps.iter().find_map(|&step| (0..prompts.len()).find_map(|prompt| picture(step, prompt)));
    let Some(first) = first else { return Ok(()) };
    let size = [first.width, first.height];
    let columns = thinned(&steps, MOST_COLUMNS);
    let labels = Labels {
        title: title.to_owned(),
        subtitle: String::new(),
        columns: columns.iter().map(|step| format!("step {step}")).collect(),
        rows: prompts.to_vec(),
    };
    let mut table = Table::new(&labels, size);
    for (column, &step) in columns.iter().enumerate() {
        for row in 0..prompts.len() {
            if let Some(picture) = picture(step, row) {
                table.put(row, column, &picture);
            }
        }
    }
    png::write(to[0], &table.finish(), &[])?;
    let frames = thinned(&steps, MOST_FRAMES);
    let mut animation: Option<Animation> = None;
    for (index, &step) in frames.iter().enumerate() {
        let labels = Labels {
            title: format!("step {step}"),
            subtitle: title.to_owned(),
            columns: prompts.to_vec(),
            rows: Vec::new(),
        };
        let mut table = Table::new(&labels, size);
        for column in 0..prompts.len() {
            if let Some(picture) = picture(step, column) {
                table.put(0, column, &picture);
            }
        }
        let frame = table.finish();
        let mut open = match animation.take() {
            Some(open) => open,
            None => Animation::create(to[1], [frame.width, frame.height], &[])?,
        };
        open.push(&frame, STANDS[usize::from(index + 1 == frames.len())])?;
        animation = Some(open);
    }
    match animation {
        Some(animation) => Ok(animation.finish()?),
        None => Ok(()),
    }
}

/// At most `most` of the values, evenly spread, the first and the last among them.
fn thinned(values: &[u64], most: usize) -> Vec<u64> {
    let count = values.len().min(most);
    let gaps = count.saturating_sub(1).max(1);
    (0..count).map(|i| values[i * (values.len() - 1) / gaps]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_thinned_evenly() {
        assert_eq!(thinned(&[0, 5, 10], 12), [0, 5, 10]);
        let many: Vec<u64> = (0..101).collect();
        assert_eq!(thinned(&many, 5), [0, 25, 50, 75, 100]);
        assert_eq!(thinned(&[], 5), [0u64; 0]);
        assert_eq!(thinned(&[3], 5), [3]);
    }

    #[test]
    fn pictures_of_all_steps_on_one_sheet_and_in_one_animation() {
        let folder = tempfile::tempdir().unwrap();
        let to = [folder.path().join("samples.png"), folder.path().join("samples.gif")];
        let to = [to[0].as_path(), to[1].as_path()];
        assert_eq!(samples(&folder.path().join("samples")).unwrap(), []);
        std::fs::create_dir(folder.path().join("samples")).unwrap();
        let colour = |step: u64| [step as u8 * 40 + 10, 0, 0];
        for step in [0u64, 5, 2] {
            let path = folder.path().join(format!("samples/step-{step:08}-0.png"));
            png::write(&path, &Picture::filled(64, 64, colour(step)), &[]).unwrap();
        }
        std::fs::write(folder.path().join("samples/notes.txt"), "x").unwrap();
        let found = samples(&folder.path().join("samples")).unwrap();
        assert_eq!(found.iter().map(|sample| sample.step).collect::<Vec<_>>(), [0, 2, 5]);
        let prompts = ["a dog".to_owned(), "a cat".to_owned()];
        write("run", &prompts, &found[..1], to).unwrap();
        assert!(!to[0].exists() && !to[1].exists());
        write("run", &prompts, &found, to).unwrap();
        let sheet = read(to[0], &DecodeOptions::default()).unwrap();
        for step in [0, 2, 5] {
            let count = sheet.rgb.chunks_exact(3).filter(|pixel| *pixel == colour(step)).count();
            assert_eq!(count, 192 * 192, "{step}");
        }
        let bytes = std::fs::read(to[1]).unwrap();
        let mut decoder = gif::DecodeOptions::new().read_info(bytes.as_slice()).unwrap();
        let mut delays = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            delays.push(frame.delay);
        }
        assert_eq!(delays, [40, 40, 200]);
    }
}
