//! Proof that the laws find what they are for: promises are broken on purpose, one at a time, and seeds are run until
//! one fails. The same seeds with every promise kept must be lawful.
#![allow(clippy::print_stdout, reason = "this is the program's output")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// Seeds at a time; default: as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
}

/// What finds a variant.
#[derive(Clone, Copy)]
enum By {
    /// Whole sites, over so many simulated seconds.
    Whole(u64),
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

const CASES: &[Case] = &[
    case(Variant::LogUnflushed, By::Whole(10), 1, 20),
    case(Variant::ChunkUnflushed, By::Whole(10), 1, 20),
    case(Variant::ReadAlone, By::Whole(10), 1, 20),
    case(Variant::SplitUncounted, By::Small, 1, 20),
    case(Variant::RemovedAcknowledges, By::Small, 1, 20),
];

impl Case {
    fn args(&self, seed: u64) -> Vec<String> {
        match self.by {
            By::Whole(seconds) => vec!["replay".into(), seed.to_string(), format!("--seconds={seconds}")],
            By::Small => vec!["small".into(), "--seeds=1".into(), format!("--from={seed}"), "--jobs=1".into()],
        }
    }

    fn broken_args(&self, seed: u64) -> Vec<String> {
        [self.args(seed), vec![format!("--broken={}", self.variant)]].concat()
    }
}

/// The first seed that failed, and how.
type Found = Option<(u64, String)>;

/// Runs all cases, then the control.
pub(crate) fn run(prove: &Prove) -> ExitCode {
    let jobs = prove.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| prove.variant.is_none_or(|variant| variant == case.variant)).collect();
    if cases.is_empty() {
        println!("no law is known to find this variant");
        return ExitCode::FAILURE;
    }
    let mut sound = true;
    let mut control = BTreeSet::new();
    for case in cases {
        let (started, variant) = (Instant::now(), case.variant);
        let last = match search(case, jobs) {
            Some((seed, what)) => {
                let (nth, seconds) = (seed - case.first + 1, started.elapsed().as_secs_f64());
                println!(
                    "{variant}: found by seed {seed}, the {nth}. of at most {}, in {seconds:.1} s: {what}",
                    case.most
                );
                println!("    weft-sim {}", case.broken_args(seed).join(" "));
                seed
            }
            None => {
                sound = false;
                println!("{variant}: NOT FOUND by {} seeds from {}", case.most, case.first);
                case.first + case.most - 1
            }
        };
        control.extend((case.first..=last).map(|seed| case.args(seed)));
    }
    let (started, count) = (Instant::now(), control.len());
    let unlawful = all(control.into_iter().collect(), jobs);
    for (args, what) in &unlawful {
        println!("weft-sim {} FAILED with every promise kept: {what}", args.join(" "));
    }
    if unlawful.is_empty() {
        let seconds = started.elapsed().as_secs_f64();
        println!("control: {count} runs of these seeds with every promise kept are lawful, {seconds:.1} s");
    }
    if sound && unlawful.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Breaks the promise under seed after seed, several at a time, until a law notices.
fn search(case: &Case, jobs: usize) -> Found {
    let (next, over) = (AtomicU64::new(case.first), AtomicBool::new(false));
    let found = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= case.first + case.most {
                        return;
                    }
                    if let Err(what) = lawful(&case.broken_args(seed)) {
                        over.store(true, Ordering::Relaxed);
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        if found.as_ref().is_none_or(|(other, _)| seed < *other) {
                            *found = Some((seed, what));
                        }
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs all of them, several at a time: those that failed, and how.
fn all(runs: Vec<Vec<String>>, jobs: usize) -> Vec<(Vec<String>, String)> {
    let (runs, failed) = (Mutex::new(runs), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let run = runs.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(args) = run else { return };
                    if let Err(what) = lawful(&args) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((args, what));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
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
    let violation = finished.line.split_once("VIOLATION ").map(|(_, what)| what);
    let said = |line: &&str| line.starts_with("PANIC at ") || line.starts_with("seed ");
    let what = violation.or_else(|| finished.errors.lines().find(said));
    let what = what.unwrap_or_else(|| panic!("a seed ended without a verdict: {}{}", finished.line, finished.errors));
    const LONGEST: usize = 200;
    what.chars().take(LONGEST).collect()
}
