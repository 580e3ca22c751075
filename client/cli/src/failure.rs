//! Why a command failed, and what to do next.

use std::fmt::Display;
use std::io;

use weft_client::{Error, Refusal};

/// A command's failure: what was being done and went wrong, and if possible what helps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    what: String,
    hint: Option<String>,
    kind: FailureKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    Failed,
    Usage,
    Interrupted,
    /// Everything was said already.
    Silent,
    /// A check found damage, which was told.
    Damaged,
    /// A check could not look at everything, which was told.
    Incomplete,
}

impl Failure {
    /// Refused or failed: exit code 1.
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), hint: None, kind: FailureKind::Failed }
    }

    /// Asked the wrong way: exit code 2.
    pub(crate) fn usage(what: impl Into<String>) -> Failure {
        Failure { kind: FailureKind::Usage, ..Failure::new(what) }
    }

    /// Ended by Ctrl-C or SIGTERM: exit code 130.
    pub(crate) fn interrupted() -> Failure {
        Failure { kind: FailureKind::Interrupted, ..Failure::new("interrupted") }
    }

    /// Some of several things failed, each of which was told when it happened: exit code 1.
    pub(crate) fn told() -> Failure {
        Failure { kind: FailureKind::Silent, ..Failure::new("") }
    }

    /// A check found damage, and told it: exit code 3.
    pub(crate) fn damaged() -> Failure {
        Failure { kind: FailureKind::Damaged, ..Failure::new("") }
    }

    /// A check found no damage, but copies are lacking or could not be looked at, as it told: exit code 4.
    pub(crate) fn incomplete() -> Failure {
        Failure { kind: FailureKind::Incomplete, ..Failure::new("") }
    }

    /// With what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// What went wrong; `None` if that was told already.
    pub(crate) fn what(&self) -> Option<&str> {
        match self.kind {
            FailureKind::Silent | FailureKind::Damaged | FailureKind::Incomplete => None,
            FailureKind::Failed | FailureKind::Usage | FailureKind::Interrupted => Some(&self.what),
        }
    }

    /// What to do next.
    pub(crate) fn next(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The process's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self.kind {
            FailureKind::Failed | FailureKind::Silent => 1,
            FailureKind::Usage => 2,
            FailureKind::Damaged => 3,
            FailureKind::Incomplete => 4,
            FailureKind::Interrupted => 130,
        }
    }
}

/// Adds what was being done, in the present tense: `list /a: no such entry`.
pub(crate) trait Doing<T> {
    /// Adds what was being done.
    fn doing(self, what: impl Display) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, Error> {
    fn doing(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let failure = Failure::new(format!("{what}: {error}"));
            match hint_for(&error) {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}

/// What helps against an error of the client library, where something does.
fn hint_for(error: &Error) -> Option<String> {
    let hint = match error {
        Error::Unknown { .. } => {
            "the change may or may not have happened; see `weft cluster status`, and try again (--timeout waits longer)"
        }
        Error::Refused(refusal) => match refusal {
            Refusal::NoVolume { .. } => "`weft volume list` shows the volumes there are",
            Refusal::VolumeExists { .. } => "choose another name; `weft volume list` shows those taken",
            Refusal::Denied | Refusal::NotPermitted => {
                "`weft stat PATH` shows owner and mode; requests are made as the user who runs weft"
            }
            Refusal::NotTrusted { .. } => {
                "`weft user whoami` says who you are to the site; --credential names another file"
            }
            Refusal::NotEmpty { .. } => "`weft rm -r` removes a directory with what is in it",
            Refusal::IsDirectory { .. } => "it is a directory: -r takes whole trees",
            Refusal::NoSpace { .. } => "`weft cluster status` shows the space of each node; add a node or remove files",
            Refusal::QuotaExceeded => "`weft volume info NAME` shows use and limits",
            Refusal::WrongVersion { .. } => "run the same version of weft here and on the nodes",
            Refusal::Busy { .. } => "the site is overloaded: try again in a moment",
            _ => return None,
        },
        Error::BadHandle { .. } | Error::Closed | Error::Local { .. } => return None,
    };
    Some(hint.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_done_what_went_wrong_and_what_helps() {
        let refused: Result<(), Error> = Err(Refusal::NoVolume { what: "x".into() }.into());
        let failure = refused.doing("show volume x").unwrap_err();
        assert_eq!(failure.what(), Some("show volume x: no such volume: x"));
        assert!(failure.next().unwrap().contains("weft volume list"));
        assert_eq!(failure.code(), 1);
        assert_eq!(Failure::usage("no").code(), 2);
        assert_eq!(Failure::interrupted().code(), 130);
        assert_eq!((Failure::told().what(), Failure::told().code()), (None, 1));
    }
}
