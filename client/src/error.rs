//! What can go wrong for a caller of this library.

use weft_core::refusal::Refusal;

/// Why a call failed. [`Error::errno`] says what a mount tells the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The fabric says no, with the reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The deadline passed without a sure answer: what was asked may or may not have happened. EIO.
    #[error("unknown outcome after {waited_ms} ms: {why}")]
    Unknown {
        /// How long it was tried.
        waited_ms: u64,
        /// The last thing that stood in the way.
        why: String,
    },
    /// The handle was not opened for this. EBADF.
    #[error("the file is not open for {what}")]
    BadHandle {
        /// `reading` or `writing`.
        what: &'static str,
    },
    /// The client was closed. EIO.
    #[error("the client is closed")]
    Closed,
    /// The local side of a copy failed. EIO.
    #[error("{what}: {why}")]
    Local {
        /// What was done.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
}

/// What this library's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const EIO: i32 = 5;
const EBADF: i32 = 9;

impl Error {
    /// The errno value of Linux for it.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Refused(refusal) => refusal.errno(),
            Error::Unknown { .. } | Error::Closed | Error::Local { .. } => EIO,
            Error::BadHandle { .. } => EBADF,
        }
    }

    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Error::Refused(refusal) => Some(refusal),
            Error::Unknown { .. } | Error::BadHandle { .. } | Error::Closed | Error::Local { .. } => None,
        }
    }

    /// An answer that no server of ours gives to this question.
    pub(crate) fn unexpected(what: &'static str) -> Error {
        Error::Refused(Refusal::Invalid { why: format!("the server's answer to {what} is of another kind") })
    }
}
