//! What came of a command.

use super::inode::Attr;
use crate::ids::Ino;
use crate::refusal::Refusal;
use crate::site::SiteOutcome;
use crate::time::Timestamp;

/// What came of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; nothing to tell.
    Done,
    /// A new inode, or with `fresh: false` the one that was there.
    Created {
        /// It.
        attr: Attr,
        /// Whether it is new.
        fresh: bool,
    },
    /// The inode after the change.
    Attr(Attr),
    /// The inode whose name was removed, after it.
    Removed {
        /// It; `nlink` 0 if that was its last name.
        attr: Attr,
    },
    /// The name moved.
    Renamed {
        /// The inode that moved, after it.
        attr: Attr,
        /// What the name stood for before, after losing it: `nlink` 0 if that was its last.
        replaced: Option<Box<Attr>>,
    },
    /// So many bytes were shared.
    Copied {
        /// How many; fewer than asked at the source's end or at the bound of one command.
        len: u64,
        /// The target after it.
        attr: Attr,
    },
    /// The directory is leased to whoever asked.
    Leased {
        /// The first of the inode numbers.
        first: Ino,
        /// The directory.
        dir: Attr,
        /// The entry's time.
        now: Timestamp,
    },
    /// Held-back changes were made, but for these: their places in the list, and why not.
    Held {
        /// In order.
        refused: Vec<(u32, Refusal)>,
    },
    /// A background step was taken.
    Stepped {
        /// Whether there is more of the same to do.
        more: bool,
    },
    /// An outcome of the system group.
    Site(SiteOutcome),
}
