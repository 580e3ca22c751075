//! One seed from start to verdict.

use std::fmt;
use std::path::Path;

use tracing::Level;
use weft_core::broken::{self, Variant};

use crate::nemesis::Kind;
use crate::trace::{Digest, Tracer};
use crate::{det, world};

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// Simulated seconds with work and faults.
    pub seconds: u64,
    /// Clients at work.
    pub clients: u64,
    /// Whether anything breaks.
    pub faults: bool,
    /// What breaks; drawn by the seed if empty.
    pub kinds: Vec<Kind>,
    /// Whether disks acknowledge flushes they did not do.
    pub lying_disks: bool,
    /// The promise that is not kept, if any.
    pub broken: Option<Variant>,
}

/// Counters that can be added up, written out and read back.
macro_rules! counters {
    ($(#[doc = $about:literal])* $name:ident { $($(#[doc = $doc:literal])* $field:ident,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: u64,)*
        }

        impl $name {
            fn fields(&mut self) -> Vec<(&'static str, &mut u64)> {
                vec![$((stringify!($field), &mut self.$field)),*]
            }

            /// Adds another count.
            pub fn add(&mut self, other: &$name) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counters! {
    /// Faults that really fired, and work that was really done.
    Faults {
        /// Nodes killed with loss of unflushed writes.
        crashes,
        /// Of these, in the first moments after a start.
        start_crashes,
        /// Unflushed writes lost or torn by them.
        hurt_writes,
        /// Chunk indexes that fell back to an earlier batch.
        stale_indexes,
        /// Chunk indexes that came back with holes or empty.
        lost_indexes,
        /// Folders lost.
        wipes,
        /// Nodes whose Raft log had bits flipped before they crashed.
        rotten_logs,
        /// Damaged logs given up.
        lost_logs,
        /// Nodes that went and were not back before the end.
        deaths,
        /// Orders to empty a node, or no longer.
        drains,
        /// Nodes that joined while others were at work.
        late_joins,
        /// Nodes that ended by themselves, or did not start, and were started again.
        restarts,
        /// Nodes stopped for a while and going on later.
        suspensions,
        /// Links cut both ways.
        partitions,
        /// Links cut one way.
        one_way,
        /// Nodes cut off all others.
        isolations,
        /// Clients cut off all nodes for longer than a lease lasts unheard.
        silenced_clients,
        /// Links made slow.
        slow_links,
        /// Ends of connections torn down.
        resets,
        /// Disks made slow, full or failing for a while.
        sick_disks,
        /// Calls that failed with EIO.
        disk_errors,
        /// Calls that failed with ENOSPC.
        no_room,
        /// Reads and flushes that stalled.
        stalls,
        /// Bits flipped at rest.
        flipped_bits,
        /// Leads handed over.
        handed_over,
        /// Wall clocks that jumped.
        clock_jumps,
        /// Changes acknowledged to clients.
        acknowledged,
        /// Changes whose outcome stayed unknown.
        unknown,
        /// Reads compared with what was acknowledged.
        reads,
        /// Calls of clients that contended for the same names.
        contended,
        /// Write leases taken.
        leases,
        /// Write leases wanted back by others.
        recalls,
        /// Write leases lost by silence, or with what was held back under them.
        lost_leases,
        /// Changes answered under them.
        held,
        /// Histories for which the bound of effort was reached before a verdict.
        undecided,
    }
}

impl Faults {
    /// Adds what a report's line says.
    pub fn add_line(&mut self, line: &str) {
        for (name, value) in self.fields() {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            *value += found.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = *self;
        let words: Vec<String> = copy.fields().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&words.join(" "))
    }
}

/// A law was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{law}: {what}")]
pub struct Violation {
    /// Which law.
    pub law: &'static str,
    /// In what way.
    pub what: String,
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Of every event of every crate.
    pub digest: Digest,
    /// What fired.
    pub faults: Faults,
    /// The verdict.
    pub verdict: Result<(), Violation>,
}

impl Report {
    /// Whether every law held.
    pub fn lawful(&self) -> bool {
        self.verdict.is_ok()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Digest { hash, events } = self.digest;
        write!(f, "seed={} hash={hash:032x} events={events} {} ", self.seed, self.faults)?;
        match &self.verdict {
            Ok(()) => f.write_str("lawful"),
            Err(violation) => write!(f, "VIOLATION {violation}"),
        }
    }
}

/// Runs one seed in this process. A process runs one seed only.
///
/// Events up to `taken` are hashed and, into `trace`, written. Most of the time of a seed can go into them.
pub fn one(plan: &Plan, trace: Option<&Path>, taken: Level) -> Report {
    broken::choose(plan.broken);
    std::panic::set_hook(Box::new(|panic| {
        // A panic in any task ends the process: tokio would swallow it and the run would hang or lie.
        det::deactivate();
        let line = format!("PANIC at {:.3} s: {panic}\n", det::now() as f64 / 1e9);
        // The exit code says it too.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        std::process::exit(101);
    }));
    let (plan, trace) = (plan.clone(), trace.map(Path::to_path_buf));
    // A thread of its own: every thread-local generator and counter of the libraries begins empty under the seed.
    let run = std::thread::Builder::new().stack_size(64 << 20).spawn(move || {
        let tracer = match Tracer::new(trace.as_deref(), taken) {
            Ok(tracer) => tracer,
            Err(error) => panic!("make the trace file: {error}"),
        };
        det::activate(plan.seed);
        let (faults, verdict) = tracing::subscriber::with_default(tracer.clone(), || world::run(&plan));
        det::deactivate();
        Report { seed: plan.seed, digest: tracer.digest(), faults, verdict }
    });
    match run.map(std::thread::JoinHandle::join) {
        Ok(Ok(report)) => report,
        Ok(Err(_)) => unreachable!("the panic hook ends the process"),
        Err(error) => panic!("start the thread of the simulation: {error}"),
    }
}
