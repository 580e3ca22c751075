//! Why an operation stops early.

use crate::refusal::Refusal;
use crate::view::ViewError;

/// Why an operation stops early. All but [`Fail::Unfinished`] throw its changes away.
#[derive(Debug)]
pub(crate) enum Fail {
    /// It can't be.
    Refused(Refusal),
    /// It went as far as one command may. What it changed so far stays and is sound, the refusal (`CutPending`) is not
    /// remembered, and the same request goes on from there when it is tried again.
    Unfinished(Refusal),
    /// The records could not be read.
    View(ViewError),
}

impl From<Refusal> for Fail {
    fn from(refusal: Refusal) -> Fail {
        Fail::Refused(refusal)
    }
}

impl From<ViewError> for Fail {
    fn from(err: ViewError) -> Fail {
        Fail::View(err)
    }
}
