//! Requests under way, and what a signal does to them.
//!
//! # What always holds
//! - A request is answered once. Where a signal answered it first, what it was to hand over is given back.
//! - A signal frees a call that hangs: when the kernel says that the caller got one, the request has [`PATIENCE`] left,
//!   then the caller gets `EINTR`. Its work goes on, as that of a request whose answer was lost does, so that what was
//!   begun is not torn. A healthy site answers long before, and programs that use timers see nothing of it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::abi::OUT_HEADER;

/// How long a request goes on when its caller got a signal.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Signals remembered of requests that are not known yet, or no longer.
const REMEMBERED: usize = 256;

const ANSWERED: u8 = 1;
const WAITING: u8 = 2;

/// The requests of a mount that were not answered at once.
pub(super) struct Calls {
    runtime: Handle,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiting: BTreeMap<u64, Arc<Call>>,
    /// Signals for requests that another loop has taken and not entered yet, or that were answered meanwhile.
    early: VecDeque<u64>,
}

/// One request, as far as its answer goes.
pub(super) struct Call {
    unique: u64,
    state: AtomicU8,
    /// The descriptor it was read from: the kernel looks for it there.
    device: Arc<File>,
    calls: Arc<Calls>,
}

impl Calls {
    /// Waits for those who got a signal happen on `runtime`.
    pub(super) fn new(runtime: Handle) -> Arc<Calls> {
        Arc::new(Calls { runtime, table: Mutex::default() })
    }

    /// A request that was just read.
    pub(super) fn begin(self: &Arc<Calls>, unique: u64, device: &Arc<File>) -> Arc<Call> {
        Arc::new(Call { unique, state: AtomicU8::new(0), device: device.clone(), calls: self.clone() })
    }

    /// The caller of a request got a signal.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut table = self.table.lock();
        match table.waiting.get(&unique) {
            Some(call) => self.free_later(call.clone()),
            None => {
                if table.early.len() == REMEMBERED {
                    table.early.pop_front();
                }
                table.early.push_back(unique);
            }
        }
    }

    fn free_later(&self, call: Arc<Call>) {
        self.runtime.spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            if call.refuse(libc::EINTR) {
                tracing::debug!(unique = call.unique, "a signal freed a call that hangs; its work goes on");
            }
        });
    }
}

impl Call {
    /// Answers with what the parts hold together; `false`: it was answered before.
    pub(super) fn answer(&self, parts: &[&[u8]]) -> bool {
        self.claim() && {
            self.write(0, parts);
            true
        }
    }

    /// Answers with an error; `false`: it was answered before.
    pub(super) fn refuse(&self, errno: i32) -> bool {
        self.claim() && {
            self.write(-errno, &[]);
            true
        }
    }

    /// Once the request was handed on: if it waits, a signal finds it from now on.
    pub(super) fn handed_on(self: &Arc<Call>) {
        if self.state.load(Ordering::Acquire) & ANSWERED != 0 {
            return;
        }
        let mut table = self.calls.table.lock();
        table.waiting.insert(self.unique, self.clone());
        if self.state.fetch_or(WAITING, Ordering::AcqRel) & ANSWERED != 0 {
            table.waiting.remove(&self.unique);
            return;
        }
        if let Some(at) = table.early.iter().position(|early| *early == self.unique) {
            table.early.remove(at);
            self.calls.free_later(self.clone());
        }
    }

    /// Whether the answer is the caller's to write: only the first one is.
    fn claim(&self) -> bool {
        let before = self.state.fetch_or(ANSWERED, Ordering::AcqRel);
        if before & (ANSWERED | WAITING) == WAITING {
            self.calls.table.lock().waiting.remove(&self.unique);
        }
        before & ANSWERED == 0
    }

    fn write(&self, error: i32, parts: &[&[u8]]) {
        if let Err(failed) = send(&self.device, error, self.unique, parts) {
            // ENOENT: a signal made the kernel give the request up. ENODEV: the mount is gone.
            match failed.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV) => tracing::trace!(unique = self.unique, "nobody waits any more"),
                _ => tracing::warn!(unique = self.unique, error = %failed, "answer the kernel"),
            }
        }
    }
}

/// Writes one message to the kernel; the device takes it whole or not at all.
pub(super) fn send(device: &File, error: i32, unique: u64, parts: &[&[u8]]) -> io::Result<()> {
    let len = OUT_HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&(len as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    let mut slices = vec![IoSlice::new(&header)];
    slices.extend(parts.iter().map(|part| IoSlice::new(part)));
    let mut device = device;
    loop {
        match device.write_vectored(&slices) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn device() -> (Arc<File>, Arc<Calls>) {
        (Arc::new(tempfile::tempfile().unwrap()), Calls::new(Handle::current()))
    }

    fn written(device: &File) -> Vec<u8> {
        let (mut device, mut all) = (device, Vec::new());
        device.rewind().unwrap();
        device.read_to_end(&mut all).unwrap();
        all
    }

    /// The errors of all answers, in order.
    fn errors(device: &File) -> Vec<i32> {
        let all = written(device);
        let mut rest = &all[..];
        let mut errors = Vec::new();
        while !rest.is_empty() {
            let len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            errors.push(i32::from_ne_bytes(rest[4..8].try_into().unwrap()));
            rest = &rest[len..];
        }
        errors
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_freed_by_a_signal_once() {
        let (file, calls) = device();
        let call = calls.begin(7, &file);
        call.handed_on();
        calls.interrupt(7);
        tokio::time::sleep(PATIENCE * 2).await;
        assert_eq!(errors(&file), [-libc::EINTR]);
        assert!(!call.answer(&[b"late"]), "it was answered");
        assert_eq!(errors(&file), [-libc::EINTR]);
        assert!(calls.table.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_answered_in_time_sees_no_signal() {
        let (file, calls) = device();
        let call = calls.begin(7, &file);
        call.handed_on();
        calls.interrupt(7);
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(call.answer(&[b"in", b"time"]));
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(errors(&file), [0]);
        assert_eq!(written(&file)[OUT_HEADER..], *b"intime");
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_overtakes_its_call_is_remembered() {
        let (file, calls) = device();
        let call = calls.begin(7, &file);
        calls.interrupt(7);
        call.handed_on();
        tokio::time::sleep(PATIENCE * 2).await;
        assert_eq!(errors(&file), [-libc::EINTR]);
        // Signals for what was answered long ago do not pile up.
        (0..1000).for_each(|unique| calls.interrupt(unique));
        assert_eq!(calls.table.lock().early.len(), REMEMBERED);
    }

    #[tokio::test]
    async fn what_is_answered_at_once_is_never_entered() {
        let (file, calls) = device();
        let call = calls.begin(7, &file);
        assert!(call.refuse(libc::ENOENT));
        call.handed_on();
        assert!(calls.table.lock().waiting.is_empty());
        assert_eq!(errors(&file), [-libc::ENOENT]);
    }
}
