//! One file's writes: a queue, and a thread that takes everything in it, writes neighbours in one call and flushes
//! once for all of them (group commit).
//!
//! The thread starts with the first job and ends when the queue stays empty for a while or the file is dropped; queued
//! jobs are always finished. After a failed flush the kernel may have dropped the dirty pages and forgotten the error,
//! so nothing about the file can be trusted any more: every later job fails.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::direct::Direct;
use super::sys;
use crate::parts::WriteDone;

/// A queue empty for this long ends its thread; the next job starts another.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs taken for one flush.
const MAX_JOBS: usize = 4096;
/// Bytes taken for one flush, so that the first of many waits for a bounded while.
const MAX_BYTES: u64 = 32 << 20;
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

pub(super) enum Job {
    Write { offset: u64, parts: Vec<Bytes>, durable: bool, done: WriteDone },
    Sync { done: WriteDone },
    Punch { offset: u64, len: u64, done: WriteDone },
}

impl Job {
    fn into_done(self) -> WriteDone {
        match self {
            Job::Write { done, .. } | Job::Sync { done } | Job::Punch { done, .. } => done,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Job::Write { parts, .. } => parts.iter().map(|part| part.len() as u64).sum(),
            Job::Sync { .. } | Job::Punch { .. } => 0,
        }
    }

    fn wants_flush(&self) -> bool {
        matches!(self, Job::Write { durable: true, .. } | Job::Sync { .. })
    }
}

pub(super) struct Writer {
    file: Arc<File>,
    name: String,
    len: Arc<AtomicU64>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: bool,
    closed: bool,
    /// Something was written and not yet flushed.
    dirty: bool,
    failed: Option<Failed>,
}

/// Why a flush failed.
#[derive(Clone)]
struct Failed {
    kind: io::ErrorKind,
    text: String,
}

impl Failed {
    fn new(name: &str, error: &io::Error) -> Failed {
        Failed { kind: error.kind(), text: format!("{name}: flush: {error}") }
    }

    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

impl Writer {
    /// For an open file. `len` is raised to the end of each finished write.
    pub(super) fn new(file: Arc<File>, name: String, len: Arc<AtomicU64>) -> Arc<Writer> {
        Arc::new(Writer { file, name, len, queue: Mutex::default(), wake: Condvar::new() })
    }

    /// Queues a job and wakes or starts the thread.
    pub(super) fn submit(self: &Arc<Writer>, job: Job) {
        let mut queue = self.queue.lock();
        queue.jobs.push_back(job);
        if queue.running {
            drop(queue);
            self.wake.notify_one();
            return;
        }
        queue.running = true;
        let writer = self.clone();
        let started = std::thread::Builder::new().name("weft-disk".into()).spawn(move || writer.run());
        if let Err(error) = started {
            queue.running = false;
            let jobs = std::mem::take(&mut queue.jobs);
            drop(queue);
            for job in jobs {
                job.into_done()(Err(io::Error::new(error.kind(), format!("start a disk thread: {error}"))));
            }
        }
    }

    /// Lets the thread end once the queue is empty.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        let mut direct = Direct::Untried;
        let mut queue = self.queue.lock();
        loop {
            while queue.jobs.is_empty() {
                if queue.closed || self.wake.wait_for(&mut queue, IDLE).timed_out() && queue.jobs.is_empty() {
                    queue.running = false;
                    return;
                }
            }
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < MAX_JOBS
                && bytes < MAX_BYTES
                && let Some(job) = queue.jobs.pop_front()
            {
                bytes += job.bytes();
                batch.push(job);
            }
            let (mut dirty, mut failed) = (queue.dirty, queue.failed.clone());
            drop(queue);
            let results = self.carry_out(&batch, &mut direct, &mut dirty, &mut failed);
            {
                // Before the answers, so that whoever asks again because of one finds the file failed.
                let mut queue = self.queue.lock();
                (queue.dirty, queue.failed) = (dirty, failed);
            }
            for (job, result) in batch.into_iter().zip(results) {
                job.into_done()(result);
            }
            queue = self.queue.lock();
        }
    }

    /// Does the jobs in order and flushes once if any of them asks for it.
    fn carry_out(
        &self,
        jobs: &[Job],
        direct: &mut Direct,
        dirty: &mut bool,
        failed: &mut Option<Failed>,
    ) -> Vec<io::Result<()>> {
        if let Some(failed) = failed {
            return jobs.iter().map(|_| Err(failed.error())).collect();
        }
        let flush = jobs.iter().any(Job::wants_flush);
        let runs = runs_of(jobs);
        let past_cache = |jobs: &[Job], direct: &Direct| match jobs {
            [Job::Write { offset, .. }, ..] => direct.suits(*offset, jobs.iter().map(Job::bytes).sum()),
            _ => false,
        };
        let one_write = runs.len() == 1 && jobs.iter().all(|job| matches!(job, Job::Write { .. }));
        if flush && !*dirty && one_write && !past_cache(jobs, direct) {
            match self.write_run(jobs, true) {
                Ok(()) => return jobs.iter().map(|_| Ok(())).collect(),
                // A full disk is not a broken one, and not every file system knows the flag. What of the run reached
                // the page cache is written again below, so a flush that succeeds then covers all of it.
                Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::Unsupported) => {}
                Err(error) => {
                    let broken = Failed::new(&self.name, &error);
                    *failed = Some(broken.clone());
                    return jobs.iter().map(|_| Err(broken.error())).collect();
                }
            }
        }
        let mut results = Vec::with_capacity(jobs.len());
        for run in runs {
            let jobs = &jobs[run];
            let result = match jobs {
                [Job::Sync { .. }] => Ok(()),
                [Job::Punch { offset, len, .. }] => self.punch(*offset, *len),
                jobs if past_cache(jobs, direct) => self.write_direct(jobs, direct),
                _ => self.write_run(jobs, false),
            };
            *dirty |= !matches!(jobs, [Job::Sync { .. }]);
            results.extend(jobs.iter().map(|_| match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", self.name))),
            }));
        }
        // Jobs that failed already need no flush, and one that fails would condemn the file.
        if jobs.iter().zip(&results).any(|(job, result)| job.wants_flush() && result.is_ok()) {
            match self.file.sync_data() {
                Ok(()) => *dirty = false,
                Err(error) => {
                    let broken = Failed::new(&self.name, &error);
                    for (job, result) in jobs.iter().zip(&mut results) {
                        if job.wants_flush() && result.is_ok() {
                            *result = Err(broken.error());
                        }
                    }
                    *failed = Some(broken);
                }
            }
        }
        results
    }

    /// Writes jobs that lie one behind the other.
    fn write_run(&self, jobs: &[Job], durable: bool) -> io::Result<()> {
        let (mut slices, mut at, mut total) = (Vec::new(), 0, 0u64);
        for (n, job) in jobs.iter().enumerate() {
            if let Job::Write { offset, parts, .. } = job {
                if n == 0 {
                    at = *offset;
                }
                for part in parts.iter().filter(|part| !part.is_empty()) {
                    total += part.len() as u64;
                    slices.push(IoSlice::new(part));
                }
            }
        }
        let end = at + total;
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match sys::write_once(&self.file, rest, at, durable) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.len.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// Writes jobs that lie one behind the other past the page cache, or where that can't be done, into it.
    fn write_direct(&self, jobs: &[Job], direct: &mut Direct) -> io::Result<()> {
        let [Job::Write { offset, .. }, ..] = jobs else { return self.write_run(jobs, false) };
        let parts = jobs.iter().flat_map(|job| match job {
            Job::Write { parts, .. } => &parts[..],
            Job::Sync { .. } | Job::Punch { .. } => &[],
        });
        if !direct.write(&self.file, parts.map(|part| &part[..]), *offset)? {
            return self.write_run(jobs, false);
        }
        let end = offset + jobs.iter().map(Job::bytes).sum::<u64>();
        self.len.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = (offset + len).min(self.len.load(Ordering::Acquire));
        if end <= offset {
            return Ok(());
        }
        match sys::punch(&self.file, offset, end - offset) {
            // Not every file system can; zeroes read the same.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let mut at = offset;
                while at < end {
                    let len = (end - at).min(ZEROES.len() as u64);
                    std::os::unix::fs::FileExt::write_all_at(&*self.file, &ZEROES[..len as usize], at)?;
                    at += len;
                }
                Ok(())
            }
            result => result,
        }
    }
}

/// Spans of jobs that one call can do: writes one behind the other, or any other job alone.
fn runs_of(jobs: &[Job]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    let mut end = None;
    for (n, job) in jobs.iter().enumerate() {
        let next = match job {
            Job::Write { offset, .. } => Some((*offset, offset + job.bytes())),
            Job::Sync { .. } | Job::Punch { .. } => None,
        };
        match (runs.last_mut(), next) {
            (Some(run), Some((start, _))) if end == Some(start) => run.end = n + 1,
            _ => runs.push(n..n + 1),
        }
        end = next.map(|(_, end)| end);
    }
    runs
}
