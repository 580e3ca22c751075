//! What goes wrong on the way, each so many times of a thousand.

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// A request is lost before it is carried out.
    pub(crate) lost_requests: u32,
    /// An answer is lost after it.
    pub(crate) lost_answers: u32,
    /// A node is busy.
    pub(crate) busy: u32,
    /// Another node leads from now on.
    pub(crate) elections: u32,
    /// A chunk server does not store.
    pub(crate) failed_puts: u32,
    /// A chunk server's epoch is newer than the client's.
    pub(crate) stale_placement: u32,
    /// A replica gives wrong bytes.
    pub(crate) rot: u32,
    /// A replica answers late.
    pub(crate) slow_gets: u32,
}

impl Trouble {
    /// A bit of everything.
    pub(crate) fn everywhere() -> Trouble {
        Trouble {
            lost_requests: 60,
            lost_answers: 100,
            busy: 40,
            elections: 30,
            failed_puts: 100,
            stale_placement: 40,
            rot: 60,
            slow_gets: 40,
        }
    }
}
