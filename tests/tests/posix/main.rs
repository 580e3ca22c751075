//! POSIX to the letter, judged by the suites and programs that find every corner, on a mount of three nodes. Needs root
//! and fuse3, and cargo to install the suites.

mod hung;
mod programs;
mod suites;

use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
