//! scumble: fine-tune Stable Diffusion with LoRA, and paint with the results.
//!
//! The program is thin: [`args`] says what can be typed, [`commands`] has one file a verb that parses, calls the
//! libraries and prints, [`terminal`] is where text goes, [`failure`] how things end.
//!
//! All of it is a library only so that it is compiled beside the kernels and not after them; nothing in it is for other
//! programs.

mod args;
mod commands;
mod context;
mod failure;
mod memory;
mod precision;
mod terminal;

use std::process::ExitCode;

use clap::Parser as _;

/// Reads the command line, does what it says and tells how that ended.
pub fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let terminal = terminal::Terminal::new(cli.global.color, cli.global.verbosity());
    let context = context::Context::new(cli.global, terminal);
    match commands::run(&context, cli.command) {
        Ok(outcome) => outcome.into(),
        Err(failure) => failure.report(&context.terminal),
    }
}
