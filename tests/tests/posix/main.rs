//! POSIX to the letter, judged by the suites and programs that find every corner, on a mount of three nodes. Needs root
//! and fuse3, and cargo to install the suites.

mod hung;
mod programs;
mod suites;

use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// How much of a test is done: what a variable of the environment says, or the default.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}
