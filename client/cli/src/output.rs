//! The only place that prints: data to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::failure::{Doing, Failure};

/// Writes bytes to standard output. A reader that has seen enough (`weft ls | head`) ends the process quietly.
pub(crate) fn bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.doing("write to standard output"),
    }
}

/// Writes text and a newline to standard output.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut data = text.as_ref().as_bytes().to_vec();
    data.push(b'\n');
    bytes(&data)
}

/// Writes a value as indented JSON to standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(format!("write JSON: {error}")))?;
    line(text)
}

/// Says something to whoever watches, on standard error, so that it never mixes with data.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nobody is left to tell that telling failed.
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Tells of a failure that does not end the command.
pub(crate) fn warning(failure: &Failure) {
    tell(failure, "weft:", "33");
}

/// Tells why the command failed.
pub(crate) fn failure(failure: &Failure) {
    tell(failure, "error:", "31");
}

fn tell(failure: &Failure, word: &str, color: &str) {
    let Some(what) = failure.what() else { return };
    note(format!("{} {what}", mark(word, color)));
    if let Some(next) = failure.next() {
        note(format!("  {} {next}", mark("next:", "36")));
    }
}

fn mark(text: &str, color: &str) -> String {
    let colored = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colored { format!("\x1b[1;{color}m{text}\x1b[0m") } else { text.to_string() }
}

/// Whether somebody watches standard error, so that progress is worth showing.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Sends the log to standard error, as much as `WEFT_LOG` asks for, in the syntax of tracing's EnvFilter.
pub(crate) fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
