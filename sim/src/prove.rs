//! Proof that the laws find what they are for: promises are broken on purpose, one at a time, and seeds are run until
//! one fails. The same seeds with every promise kept must be lawful.
#![allow(clippy::print_stdout, reason = "this is the program's output")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use weft_core::broken::Variant;

use crate::child::{self, Finished};

/// What to prove.
#[derive(clap::Args, Clone)]
pub(crate) struct Prove {
    /// Only this variant; all of them unless given.
    #[arg(long)]
    variant: Option<Variant>,
    /// Variants at a time; default: as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
}

/// What finds a variant.
#[derive(Clone, Copy)]
enum By {
    /// Whole sites with these faults, over so many simulated seconds.
    Whole(&'static str, u64),
    /// The machines alone.
    Small,
}

/// A variant, and within how many seeds it must be found.
struct Case {
    variant: Variant,
    by: By,
    /// The first seed: one that found it when this was written, so that mostly one is enough.
    first: u64,
    /// Seeds after which it counts as not found, whatever a change of the code made of them.
    most: u64,
}

const fn case(variant: Variant, by: By, first: u64, most: u64) -> Case {
    Case { variant, by, first, most }
}

/// In order of the time that they take, so that the longest do not come last.
const CASES: &[Case] = &[
    case(Variant::PositionFirst, By::Whole("crash", 6), 10, 20),
    case(Variant::ChunkUnflushed, By::Whole("crash", 6), 15, 20),
    case(Variant::ExtentFirst, By::Whole("crash", 6), 10, 20),
    case(Variant::RepliesForgotten, By::Whole("wipe,crash", 12), 12, 60),
    case(Variant::ReadAlone, By::Whole("isolate", 10), 4, 30),
    case(Variant::WipedVotes, By::Whole("wipe", 6), 8, 10),
    case(Variant::TornTail, By::Small, 1, 20),
    case(Variant::RemovedAcknowledges, By::Small, 4, 40),
    case(Variant::LogUnflushed, By::Small, 1, 10),
    case(Variant::SegmentUnsalted, By::Small, 1, 10),
    case(Variant::SplitUncounted, By::Small, 1, 10),
];

impl Case {
    fn args(&self, seed: u64) -> Vec<String> {
        match self.by {
            By::Whole(kinds, seconds) => {
                vec!["replay".into(), seed.to_string(), format!("--seconds={seconds}"), format!("--faults={kinds}")]
            }
            By::Small => vec!["small".into(), "--seeds=1".into(), format!("--from={seed}"), "--jobs=1".into()],
        }
    }

    fn broken_args(&self, seed: u64) -> Vec<String> {
        [self.args(seed), vec![format!("--broken={}", self.variant)]].concat()
    }

    /// Breaks the promise under seed after seed until a law notices; says so, and which seeds were tried.
    fn prove(&self) -> (bool, RangeInclusive<u64>) {
        let (started, variant, most) = (Instant::now(), self.variant, self.most);
        let found =
            (self.first..self.first + most).find_map(|seed| Some((seed, lawful(&self.broken_args(seed)).err()?)));
        let Some((seed, what)) = found else {
            println!("{variant}: NOT FOUND by {most} seeds from {}", self.first);
            return (false, self.first..=self.first + most - 1);
        };
        let (tried, seconds) = (seed - self.first + 1, started.elapsed().as_secs_f64());
        let line = self.broken_args(seed).join(" ");
        println!("{variant}: found by {tried} of at most {most} seeds, in {seconds:.1} s: {what}\n    weft-sim {line}");
        (true, self.first..=seed)
    }
}

/// Runs all cases, then the control.
pub(crate) fn run(prove: &Prove) -> ExitCode {
    let jobs = prove.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| prove.variant.is_none_or(|variant| variant == case.variant)).collect();
    if cases.is_empty() {
        println!("no law is known to find this variant");
        return ExitCode::FAILURE;
    }
    let proofs = each(&cases, jobs, |case| case.prove());
    let found = proofs.iter().all(|(found, _)| *found);
    let tried = cases.iter().zip(proofs).flat_map(|(case, (_, seeds))| seeds.map(|seed| case.args(seed)));
    let control: Vec<Vec<String>> = tried.collect::<BTreeSet<_>>().into_iter().collect();
    let started = Instant::now();
    let unlawful = each(&control, jobs, |args| lawful(args).map_err(|what| (args.join(" "), what)));
    let unlawful: Vec<_> = unlawful.into_iter().filter_map(Result::err).collect();
    for (line, what) in &unlawful {
        println!("FAILED with every promise kept: {what}\n    weft-sim {line}");
    }
    if unlawful.is_empty() {
        let (count, seconds) = (control.len(), started.elapsed().as_secs_f64());
        println!("with every promise kept, all {count} of these runs are lawful, in {seconds:.1} s");
    }
    if found && unlawful.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does something with each, so many at a time; what came of them, in their order.
fn each<T: Sync, R: Send>(all: &[T], jobs: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(at) else { return };
                    let result = work(one);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// Runs one seed. `Err` says which law was broken, in a line.
fn lawful(args: &[String]) -> Result<(), String> {
    match child::run(args) {
        Ok(Finished { ok: true, .. }) => Ok(()),
        Ok(finished) => Err(verdict(&finished)),
        Err(error) => panic!("start {args:?}: {error}"),
    }
}

/// What a child that failed says of it.
///
/// # Panics
/// If it says nothing: it was killed, or is another program. That must not pass for a find.
fn verdict(finished: &Finished) -> String {
    const LONGEST: usize = 200;
    let violation = finished.line.split_once("VIOLATION ").map(|(_, what)| what.to_string());
    let (mut errors, mut again) = (finished.errors.lines(), finished.errors.lines());
    // Where it was is in the first line of a panic, why in the second.
    let panic = || Some([errors.find(|line| line.starts_with("PANIC "))?, errors.next().unwrap_or_default()].join(" "));
    let small = || Some(again.find(|line| line.starts_with("seed "))?.to_string());
    let what = violation.or_else(panic).or_else(small);
    let what = what.unwrap_or_else(|| panic!("a seed ended without a verdict: {}{}", finished.line, finished.errors));
    what.chars().take(LONGEST).collect()
}
