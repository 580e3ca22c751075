//! The machines that decide, alone. Without network, disk and clock a seed takes milliseconds, so that millions of steps
//! a minute can be tried: what a whole simulated site reaches once in a thousand seeds is everyday here.
//!
//! `group` is a meta group's machine on several replicas, under clients that lose answers and leaders that come and go;
//! `site` the planner, the heartbeats and the right to acknowledge, under nodes that fall silent, lose their folders and
//! catch up; `log` a node's log on a disk that crashes. Each keeps to its own laws. The same seed makes the same steps: [`Tally::digest`] says so.

mod group;
mod log;
mod run;
mod site;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use run::{Many, run};

use crate::run::Violation;

/// What was done under a seed, or under many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries that a replica applied, and events of a site.
    pub steps: u64,
    /// Over all that was decided: two runs of a seed must agree.
    pub digest: u32,
    counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn fold(&mut self, bytes: &[u8]) {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.digest);
        hasher.update(bytes);
        self.digest = hasher.finalize();
    }

    /// How often something happened.
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    fn absorb(&mut self, other: &Tally) {
        self.steps += other.steps;
        // Of many seeds in whatever order they end.
        self.digest ^= other.digest;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "steps={} digest={:08x}", self.steps, self.digest)?;
        self.counts.iter().try_for_each(|(what, count)| write!(f, " {what}={count}"))
    }
}

/// Runs every machine under one seed.
///
/// # Errors
/// The law that was broken; a panic is one.
pub fn one(seed: u64) -> Result<Tally, Violation> {
    let mut tally = Tally::default();
    for machine in [group::run, site::run, log::run] {
        match catch_unwind(AssertUnwindSafe(|| machine(seed, &mut tally))) {
            Ok(verdict) => verdict?,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of some kind");
                return Err(broken("no panic", text));
            }
        }
    }
    Ok(tally)
}

fn broken(law: &'static str, what: impl Into<String>) -> Violation {
    Violation { law, what: what.into() }
}
