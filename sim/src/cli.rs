//! The command line: one process per seed, as many at a time as there are processors.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tracing::Level;
use weft_core::broken::Variant;
use weft_sim::nemesis::Kind;
use weft_sim::run::{self, Plan};
use weft_sim::small;

use crate::child::{self, Finished};
use crate::prove::{self, Prove};

/// Simulates whole Weft sites: real nodes and their clients in one thread, under one seed, with crashes, lost folders,
/// sick disks, cut and slow links, jumping clocks; then checks what the fabric promises.
#[derive(Parser)]
#[command(
    name = "weft-sim",
    after_help = "A failing seed prints the line that replays it. Seeds that found something are in sim/seeds.txt."
)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(clap::Args, Clone)]
struct Shape {
    /// Simulated seconds with work and faults; checks come after.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Clients at work, every other one under write leases.
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// Leave the faults out.
    #[arg(long)]
    calm: bool,
    /// Only these faults, in place of those that the seed draws.
    #[arg(long, value_name = "KIND", value_delimiter = ',', conflicts_with = "calm")]
    faults: Vec<Kind>,
    /// Let disks acknowledge flushes they did not do: the laws must notice.
    #[arg(long)]
    lying_disks: bool,
    /// Break a promise on purpose: a variant of `prove`.
    #[arg(long, value_name = "VARIANT")]
    broken: Option<Variant>,
}

#[derive(Subcommand)]
enum Action {
    /// Runs many seeds and sums up.
    Run {
        /// How many.
        #[arg(long, default_value_t = 10)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Start no more after so many minutes.
        #[arg(long)]
        minutes: Option<u64>,
        /// Seeds at a time; default: as many as there are processors.
        #[arg(long)]
        jobs: Option<usize>,
        /// Run the seeds of sim/seeds.txt instead: those that found something once.
        #[arg(long, conflicts_with_all = ["seeds", "from"])]
        known: bool,
        #[command(flatten)]
        shape: Shape,
    },
    /// Runs one seed in this process.
    Replay {
        /// Which.
        seed: u64,
        /// Write every event up to debug level into this file.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Take every event into the hash, down to the lowest level; slow.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        shape: Shape,
    },
    /// Runs the machines that decide alone, millions of steps a minute.
    Small(small::Many),
    /// Breaks promises on purpose, one at a time, and shows that seeds find each.
    Prove(Prove),
    /// Runs one seed in two processes and compares every event of every crate.
    Twice {
        /// Which.
        seed: u64,
        #[command(flatten)]
        shape: Shape,
    },
}

impl Shape {
    fn plan(&self, seed: u64) -> Plan {
        Plan {
            seed,
            seconds: self.seconds,
            clients: self.clients,
            faults: !self.calm,
            kinds: self.faults.clone(),
            lying_disks: self.lying_disks,
            broken: self.broken,
        }
    }

    fn args(&self) -> Vec<String> {
        let mut args = vec![format!("--seconds={}", self.seconds), format!("--clients={}", self.clients)];
        if self.calm {
            args.push("--calm".into());
        }
        let kinds = self.faults.iter().filter_map(ValueEnum::to_possible_value);
        args.extend(kinds.map(|kind| format!("--faults={}", kind.get_name())));
        if self.lying_disks {
            args.push("--lying-disks".into());
        }
        args.extend(self.broken.map(|variant| format!("--broken={variant}")));
        args
    }
}

pub(crate) fn main() -> ExitCode {
    match Cli::parse().command {
        Action::Run { seeds, from, minutes, jobs, known, shape } => {
            let seeds = if known { known_seeds() } else { (from..from.saturating_add(seeds)).collect() };
            run_many(&seeds, minutes, jobs, &shape)
        }
        Action::Replay { seed, trace, all, shape } => replay(seed, trace, all, &shape),
        Action::Small(many) => small::run(&many),
        Action::Prove(what) => prove::run(&what),
        Action::Twice { seed, shape } => twice(seed, &shape),
    }
}

fn replay(seed: u64, trace: Option<PathBuf>, all: bool, shape: &Shape) -> ExitCode {
    let taken = match (all, &trace) {
        (true, _) => Level::TRACE,
        (false, Some(_)) => Level::DEBUG,
        (false, None) => Level::INFO,
    };
    let report = run::one(&shape.plan(seed), trace.as_deref(), taken);
    println!("{report}");
    if report.lawful() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Arguments of a child that runs one seed.
fn replay_args(seed: u64, shape: &Shape) -> Vec<String> {
    [vec!["replay".into(), seed.to_string()], shape.args()].concat()
}

/// Seeds that found something once.
fn known_seeds() -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines();
    let seeds = lines.filter_map(|line| line.split_whitespace().next()?.parse().ok());
    seeds.collect()
}

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// What became of the seeds so far.
#[derive(Default)]
struct Tally {
    done: u64,
    failed: Vec<u64>,
    faults: run::Faults,
    told: Duration,
}

fn run_many(seeds: &[u64], minutes: Option<u64>, jobs: Option<usize>, shape: &Shape) -> ExitCode {
    let started = std::time::Instant::now();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let tally = std::sync::Mutex::new(Tally::default());
    let workers = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let lock = || tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                loop {
                    let late = minutes.is_some_and(|m| started.elapsed() >= Duration::from_secs(60 * m));
                    let next = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(&seed) = seeds.get(next).filter(|_| !late) else { return };
                    let finished = child::run(&replay_args(seed, shape)).unwrap_or_else(|error| Finished {
                        ok: false,
                        line: format!("seed {seed}: could not be run: {error}"),
                        errors: String::new(),
                    });
                    let mut tally = lock();
                    tally.done += 1;
                    tally.faults.add_line(&finished.line);
                    if !finished.ok {
                        tally.failed.push(seed);
                        println!("seed {seed} FAILED: {}", finished.line);
                        eprintln!("{}", finished.errors);
                        println!("replay with: weft-sim replay {seed} {}", shape.args().join(" "));
                    }
                    if started.elapsed() >= tally.told + PROGRESS {
                        tally.told = started.elapsed();
                        let (done, failed) = (tally.done, tally.failed.len());
                        let of = seeds.len();
                        println!("{done} of {of} seeds in {} s, {failed} failed", tally.told.as_secs());
                    }
                }
            });
        }
    });
    let Tally { done, mut failed, faults, .. } = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let took = started.elapsed().as_secs_f64();
    let speed = done as f64 * 60.0 / took / workers.max(1) as f64;
    println!("{done} seeds in {took:.0} s, {speed:.0} per minute and process; faults that fired: {faults}");
    if failed.is_empty() && done > 0 {
        println!("all lawful");
        ExitCode::SUCCESS
    } else {
        failed.sort_unstable();
        println!("{} FAILED: {failed:?}", failed.len());
        ExitCode::FAILURE
    }
}

fn twice(seed: u64, shape: &Shape) -> ExitCode {
    let args = [replay_args(seed, shape), vec!["--all".into()]].concat();
    let both = (child::run(&args), child::run(&args));
    match both {
        (Ok(a), Ok(b)) => {
            println!("{}\n{}", a.line, b.line);
            let same = a.line == b.line && a.line.contains("hash=");
            println!("{}", if same { "the same, event for event" } else { "DIFFERENT" });
            if same && a.ok && b.ok {
                ExitCode::SUCCESS
            } else {
                eprintln!("{}{}", a.errors, b.errors);
                ExitCode::FAILURE
            }
        }
        (a, b) => {
            for error in [a.err(), b.err()].into_iter().flatten() {
                eprintln!("could not run seed {seed}: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
