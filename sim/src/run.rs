//! One seed from start to verdict.

use std::fmt;
use std::path::Path;

use tracing::Level;

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
    /// Whether disks acknowledge flushes they did not do.
    pub lying_disks: bool,
}

/// Faults that really fired, and work that was really done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nodes killed with loss of unflushed writes.
    pub crashes: u64,
    /// Unflushed writes lost or torn by them.
    pub hurt_writes: u64,
    /// Links cut, one way or both.
    pub partitions: u64,
    /// Links made slow.
    pub slow_links: u64,
    /// Changes acknowledged to clients.
    pub acknowledged: u64,
    /// Changes whose outcome stayed unknown.
    pub unknown: u64,
    /// Reads compared with what was acknowledged.
    pub reads: u64,
    /// Calls of clients that contended for the same names.
    pub contended: u64,
    /// Histories for which the bound of effort was reached before a verdict.
    pub undecided: u64,
}

impl Faults {
    fn fields(&mut self) -> [(&'static str, &mut u64); 9] {
        [
            ("crashes", &mut self.crashes),
            ("hurt_writes", &mut self.hurt_writes),
            ("partitions", &mut self.partitions),
            ("slow_links", &mut self.slow_links),
            ("acknowledged", &mut self.acknowledged),
            ("unknown", &mut self.unknown),
            ("reads", &mut self.reads),
            ("contended", &mut self.contended),
            ("undecided", &mut self.undecided),
        ]
    }

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
pub fn one(plan: &Plan, trace: Option<&Path>) -> Report {
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
        let tracer = match Tracer::new(trace.as_deref(), Level::DEBUG) {
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
