//! One file a verb: its options, and the call into the libraries.

mod adapter_files;
pub mod bench;
pub mod completions;
pub mod convert;
pub mod dataset;
pub mod demo;
pub mod diff;
pub mod eval;
pub mod export_base;
pub mod extract;
pub mod generate;
pub mod grid;
pub mod inspect;
mod losses;
pub mod merge;
mod model;
pub mod pretrain;
pub mod probe;
mod progress;
pub mod resize;
pub mod runs;
mod stop;
pub mod train;
pub mod world;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Result;

/// Runs a verb.
pub fn run(context: &Context, command: Command) -> Result {
    match command {
        Command::Train(args) => train::run(context, &args),
        Command::Generate(args) => generate::run(context, &args),
        Command::Grid(args) => grid::run(context, &args),
        Command::Convert(args) => convert::run(context, &args),
        Command::Demo(args) => demo::run(context, &args),
        Command::Eval(args) => eval::run(context, &args),
        Command::Merge(args) => merge::run(context, &args),
        Command::ExportBase(args) => export_base::run(context, &args),
        Command::Extract(args) => extract::run(context, &args),
        Command::Resize(args) => resize::run(context, &args),
        Command::Runs(args) => runs::run(context, &args),
        Command::Inspect(args) => inspect::run(context, &args),
        Command::Diff(args) => diff::run(context, &args),
        Command::Probe(command) => probe::run(context, command),
        Command::Bench(command) => bench::run(context, command),
        Command::Dataset(command) => dataset::run(context, command),
        Command::Pretrain(args) => pretrain::run(context, &args),
        Command::World(command) => world::run(context, command),
        Command::Completions(args) => completions::run(context, &args),
    }
}

/// Parses a size: `512` for a square, or `512x768` for width and height.
pub fn size(text: &str) -> std::result::Result<[usize; 2], String> {
    let pixels =
        |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{text}` is no number of pixels"));
    match text.split_once(['x', 'X', '×']) {
        Some((width, height)) => Ok([pixels(width)?, pixels(height)?]),
        None => pixels(text).map(|side| [side, side]),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size("512"), Ok([512, 512]));
        assert_eq!(size("512x768"), Ok([512, 768]));
        assert!(size("x512").is_err() && size("-8").is_err() && size("wide").is_err());
    }
}
