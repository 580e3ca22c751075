//! `weft`: a node, a mount, a client and a whole site for trying out, in one binary.
//!
//! `args` says what can be asked, one file under `commands/` does each. Exit codes: 0 done, 1 refused or failed, 2
//! wrong usage, 130 interrupted by Ctrl-C; of a check, 3 damage found, 4 not everything could be looked at.

mod args;
mod commands;
mod connect;
mod dev;
mod failure;
mod humane;
mod interrupt;
mod local_node;
mod output;
mod path;
mod progress;
mod system;
mod table;
mod transfer;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    system::keep_big_buffers();
    system::raise_open_files();
    output::log_to_stderr(cli.command.default_log());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    if let Command::Completions { shell } = cli.command {
        return commands::completions::run(shell);
    }
    let mut runtime = match commands::threads(&cli.command)? {
        Some(1) => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut many = tokio::runtime::Builder::new_multi_thread();
            threads.map(|threads| many.worker_threads(threads));
            many
        }
    };
    let runtime = runtime.enable_all().build().map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    let result = runtime.block_on(commands::run(cli));
    // What still runs by now is not waited for: everything that matters was ended by the command itself.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
