//! Many seeds, each on whatever thread is free.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_core::broken::{self, Variant};

use super::{Tally, one};

/// Which seeds, and how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Many {
    /// Stop after so many minutes; without a number of seeds, go on until then.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// How many; 1000 unless a time is given.
    #[arg(long)]
    pub seeds: Option<u64>,
    /// The first.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Seeds at a time; as many as there are processors unless given.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Break a promise on purpose: a variant of `prove`.
    #[arg(long, value_name = "VARIANT")]
    pub broken: Option<Variant>,
}

/// Seeds after which nothing more is tried: they say the same.
const ENOUGH: usize = 10;

/// Runs the seeds, prints a summary and, for each that broke a law, the line that repeats it.
pub fn run(many: &Many) -> ExitCode {
    broken::choose(many.broken);
    let seeds = many.seeds.unwrap_or(if many.minutes.is_some() { u64::MAX } else { 1000 });
    let end = many.from.saturating_add(seeds);
    let limit = many.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes.max(0.0)));
    let jobs = many.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let started = Instant::now();
    let next = AtomicU64::new(many.from);
    let results = Mutex::new((0u64, Tally::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let late = limit.is_some_and(|limit| started.elapsed() >= limit);
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = results.lock().unwrap_or_else(PoisonError::into_inner).2.len() >= ENOUGH;
                    if late || enough || seed >= end {
                        return;
                    }
                    let outcome = one(seed);
                    let (done, sum, failed) = &mut *results.lock().unwrap_or_else(PoisonError::into_inner);
                    *done += 1;
                    match outcome {
                        Ok(tally) => sum.absorb(&tally),
                        Err(violation) => {
                            eprintln!("seed {seed}: {violation}\nrepeat with: weft-sim small --seeds 1 --from {seed}");
                            failed.push(seed);
                        }
                    }
                }
            });
        }
    });
    let (done, tally, failed) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = started.elapsed().as_secs_f64();
    println!("{done} seeds in {took:.1} s, {:.0} steps a minute; {tally}", tally.steps as f64 / took * 60.0);
    if failed.is_empty() && done > 0 {
        println!("all lawful");
        ExitCode::SUCCESS
    } else {
        println!("{} FAILED: {failed:?}", failed.len());
        ExitCode::FAILURE
    }
}
