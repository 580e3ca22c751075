//! What happens in a site.

use std::rc::Rc;

use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId};
use weft_core::site::SiteMap;
use weft_node::site::beats::Beat;

/// A process in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) process: usize,
    pub(super) boot: u64,
}

/// What happens, and to whom.
pub(super) enum Event {
    /// A process sends a heartbeat.
    Beat(usize),
    /// It reaches a process that may lead.
    BeatAt { from: Who, to: usize, sent: Instant, beat: Beat },
    /// A majority has confirmed that leader, or has not.
    Confirmed { from: Who, by: Who, sent: Instant },
    /// The answer is back.
    Granted { to: Who, sent: Instant, lease: bool, map: Rc<SiteMap> },
    /// A process looks after the site, if it leads.
    Look(usize),
    /// A process without an id asks to join.
    Join(usize),
    /// The oldest proposal becomes an entry.
    Commit,
    /// A former leader hears of the new one.
    Deposed { process: usize, term: u64 },
    /// Another leader is elected.
    Elect,
    /// The leader is missed, if it is gone.
    Missed,
    /// A former leader gets back what it lost a moment ago.
    ElectAgain(usize),
    /// A client uploads a chunk.
    Put,
    /// A chunk reaches a member.
    PutAt { to: usize, put: u64, tries: u32 },
    /// It is on the member's media.
    Stored { at: Who, put: u64 },
    /// A member's answer reaches the first one.
    Forwarded { to: Who, put: u64, by: usize },
    /// Processes that are behind look what they miss.
    CatchUp(usize),
    /// A process asks another for the next ids.
    List { from: Who, to: usize, pg: PgId, epoch: PgEpoch, version: u64, after: u64 },
    /// The answer.
    Listed { to: Who, source: usize, pg: PgId, epoch: PgEpoch, page: Vec<u64>, end: bool },
    /// The chunks of it are there.
    Fetched { at: Who, source: Who, pg: PgId, epoch: PgEpoch, page: Vec<u64>, end: bool },
    /// Something breaks.
    Fault,
    /// What was broken of a process works again.
    Repair(usize),
}
