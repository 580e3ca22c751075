//! Files behind the disk seam: the real disk, and one in memory that forgets what was not flushed.
//!
//! Nothing here knows what the bytes mean. Threads live here and nowhere else in the node: blocking calls go to
//! tokio's blocking pool, writes to a thread per file that is being written. Short reads need none.

mod direct;
mod mem;
mod real;
mod ring;
mod sys;
mod writer;

#[doc(hidden)]
pub use mem::MemDisk;
pub use real::RealDisk;

use std::io;
use std::path::{Component, Path, PathBuf};

/// A path of the seam, checked: relative and without `..`, so that nothing outside the root can be reached.
fn within(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside {
        Ok(root.join(path))
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{}: not a path within the data folder", path.display()),
        ))
    }
}

#[cfg(test)]
mod tests;
