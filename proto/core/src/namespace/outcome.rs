//! What came of a command.

use super::inode::Attr;
use crate::ids::Ino;
use crate::site::SiteOutcome;

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
        /// The inode that moved.
        ino: Ino,
        /// What the name stood for before, after losing it: `nlink` 0 if that was its last.
        replaced: Option<Attr>,
    },
    /// So many bytes were shared.
    Copied {
        /// How many; fewer than asked at the source's end or at the bound of one command.
        len: u64,
        /// The target after it.
        attr: Attr,
    },
    /// A background step was taken.
    Stepped {
        /// Whether there is more of the same to do.
        more: bool,
    },
    /// An outcome of the system group.
    Site(SiteOutcome),
}
