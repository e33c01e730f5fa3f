//! `scumble completions`: a script that lets a shell complete verbs and options.

use clap::{Args, CommandFactory as _};

use crate::args::Cli;
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// Options of `completions`.
#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell to write for
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(context: &Context, args: &CompletionsArgs) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "scumble", &mut script);
    context.terminal.result(String::from_utf8_lossy(&script).trim_end());
    Ok(Outcome::Done)
}
