//! Short reads that wait for the disk without a thread, by io_uring.
//!
//! A random read of 4 KiB that is not in the page cache costs the disk some tens of microseconds. Handing it to a thread and
//! being woken by it costs as much again and more, so the kernel is asked to wait instead: it fills the buffer and rings
//! a bell that the runtime listens to like to a socket.
//!
//! What always holds: a buffer that the kernel may still write to is never freed nor moved; it lies in a slot until the
//! kernel has answered, whoever stopped waiting meanwhile, and is leaked where the ring is closed before that. Where the
//! kernel has no io_uring, or does not let this process have it, there is no ring, and threads read as ever.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use bytes::BytesMut;
use io_uring::{IoUring, opcode, types};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// Reads under way at once; further ones go to threads.
const SLOTS: u32 = 128;
/// Longer reads go to threads: the kernel would copy their bytes on the thread that serves requests.
pub(super) const LONGEST: usize = 64 << 10;

/// Reads under way. Dropping it lets its task end.
pub(super) struct Ring(Arc<Shared>);

struct Shared {
    ring: IoUring,
    /// The kernel adds to it with each answer.
    bell: File,
    state: Mutex<State>,
}

struct State {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Nobody listens for answers any more, or the kernel did not take a request: nothing new is asked.
    broken: bool,
}

/// A read that the kernel was asked for.
struct Slot {
    /// Keeps the descriptor open.
    _file: Arc<File>,
    buffer: BytesMut,
    done: Option<oneshot::Sender<Answer>>,
}

/// The buffer with what was read behind what it held before, and how that went.
type Answer = (BytesMut, io::Result<usize>);

impl Ring {
    /// `None` where there is no io_uring. Must be called within a runtime, on which the answers are taken.
    pub(super) fn open() -> Option<Ring> {
        match Ring::try_open() {
            Ok(ring) => Some(ring),
            Err(error) => {
                tracing::debug!(%error, "no io_uring: threads wait for the disk");
                None
            }
        }
    }

    fn try_open() -> io::Result<Ring> {
        let ring = IoUring::builder().setup_coop_taskrun().build(SLOTS)?;
        // SAFETY: takes plain numbers, gives a new descriptor or -1.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if bell < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let bell = File::from(unsafe { OwnedFd::from_raw_fd(bell) });
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        // SAFETY: the file owns its descriptor, and is neither replaced nor closed in there.
        let heard = unsafe { AsyncFd::register(bell.try_clone()?)? };
        let free = (0..SLOTS as usize).rev().collect();
        let slots = (0..SLOTS).map(|_| None).collect();
        let shared = Arc::new(Shared { ring, bell, state: Mutex::new(State { slots, free, broken: false }) });
        tokio::spawn(listen(Listener(Arc::downgrade(&shared)), heard));
        Ok(Ring(shared))
    }

    /// Reads once from `offset` of the file behind what the buffer holds, `len` bytes at the most, for which it has room.
    /// `WouldBlock`: a thread should read instead.
    pub(super) async fn read(&self, file: &Arc<File>, buffer: BytesMut, offset: u64, len: usize) -> Answer {
        let elsewhere = || io::Error::from(io::ErrorKind::WouldBlock);
        let wait = match self.ask(file, buffer, offset, len) {
            Ok(wait) => wait,
            Err(buffer) => return (buffer, Err(elsewhere())),
        };
        match wait.await {
            Ok((buffer, Err(error))) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ECANCELED)) => {
                (buffer, Err(elsewhere()))
            }
            Ok(answer) => answer,
            // The buffer stays where it is; the caller takes another.
            Err(_) => (BytesMut::new(), Err(elsewhere())),
        }
    }

    fn ask(
        &self,
        file: &Arc<File>,
        mut buffer: BytesMut,
        offset: u64,
        len: usize,
    ) -> Result<oneshot::Receiver<Answer>, BytesMut> {
        let state = &mut *self.0.state.lock();
        let room = buffer.spare_capacity_mut();
        let (to, len) = (room.as_mut_ptr().cast(), room.len().min(len).min(LONGEST) as u32);
        if state.broken || len == 0 {
            return Err(buffer);
        }
        let Some(slot) = state.free.pop() else { return Err(buffer) };
        let (done, wait) = oneshot::channel();
        state.slots[slot] = Some(Slot { _file: file.clone(), buffer, done: Some(done) });
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), to, len).offset(offset).build();
        // SAFETY: the lock keeps others from the queue. The memory belongs to the buffer in the slot, and the descriptor
        // to the file there, until the kernel's answer was taken.
        let taken = unsafe { self.0.ring.submission_shared().push(&read.user_data(slot as u64)) };
        let submitted = match taken {
            Ok(()) => self.0.ring.submit().map(drop),
            Err(full) => Err(io::Error::other(full)),
        };
        if let Err(error) = submitted {
            // The kernel may still take it later, so the slot stays taken for good.
            tracing::warn!(%error, "ask the kernel for a read: threads wait for the disk from now on");
            state.give_up();
        }
        Ok(wait)
    }
}

impl State {
    fn give_up(&mut self) {
        self.broken = true;
        // Those who wait are answered by that: they read elsewhere.
        self.slots.iter_mut().flatten().for_each(|slot| slot.done = None);
    }
}

impl Shared {
    /// Hands over the answers that are there.
    fn take_answers(&self) {
        let mut answers = Vec::new();
        {
            let state = &mut *self.state.lock();
            // SAFETY: the lock keeps others from the queue.
            for answer in unsafe { self.ring.completion_shared() } {
                let at = answer.user_data() as usize;
                let Some(Slot { mut buffer, done, .. }) = state.slots.get_mut(at).and_then(Option::take) else {
                    continue;
                };
                state.free.push(at);
                let result = match usize::try_from(answer.result()) {
                    Ok(count) => {
                        // SAFETY: the kernel filled so many bytes behind those already there.
                        unsafe { buffer.set_len(buffer.len() + count) };
                        Ok(count)
                    }
                    Err(_) => Err(io::Error::from_raw_os_error(-answer.result())),
                };
                answers.push((done, (buffer, result)));
            }
        }
        for (done, answer) in answers {
            // Whoever no longer waits no longer needs the bytes.
            let _ = done.map(|done| done.send(answer));
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Wakes the task, which finds nobody. A full bell rings anyway.
        let _ = (&self.0.bell).write(&1u64.to_ne_bytes());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for slot in std::mem::take(&mut self.state.get_mut().slots).into_iter().flatten() {
            // The kernel may still write to it.
            std::mem::forget(slot.buffer);
        }
    }
}

/// Whoever listens to the bell; when that ends, nobody waits for it any more.
struct Listener(Weak<Shared>);

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.state.lock().give_up();
        }
    }
}

async fn listen(listener: Listener, bell: AsyncFd<File>) {
    loop {
        let mut ready = match bell.readable().await {
            Ok(ready) => ready,
            Err(error) => {
                tracing::warn!(%error, "listen for the disk: threads wait for it from now on");
                return;
            }
        };
        // Silenced before the answers are looked for, so that one that comes meanwhile rings again.
        let silenced = ready.try_io(|bell| bell.get_ref().read(&mut [0; 8]));
        drop(ready);
        if let Ok(Err(error)) = silenced {
            tracing::warn!(%error, "listen for the disk: threads wait for it from now on");
            return;
        }
        let Some(shared) = listener.0.upgrade() else { return };
        shared.take_answers();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, Arc<File>) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(folder.path().join("f")).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        (folder, Arc::new(file))
    }

    #[tokio::test]
    async fn many_reads_at_once_each_get_their_bytes() {
        let bytes: Vec<u8> = (0..1 << 20).map(|at| (at / 4096) as u8).collect();
        let (_folder, file) = file(&bytes);
        let Some(ring) = Ring::open() else { return };
        for _ in 0..3 {
            let reads = (0..256u64).map(|block| {
                let (ring, file) = (&ring, &file);
                async move { (block, ring.read(file, BytesMut::with_capacity(4096), block * 4096, 4096).await) }
            });
            let mut elsewhere = 0;
            for (block, (buffer, result)) in futures::future::join_all(reads).await {
                match result {
                    Ok(count) => {
                        assert_eq!(count, buffer.len());
                        assert!(count > 0 && buffer.iter().all(|byte| *byte == block as u8), "block {block}");
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        elsewhere += 1;
                    }
                }
            }
            assert!(elsewhere <= 256 - SLOTS, "only what has no slot goes elsewhere: {elsewhere}");
        }
        assert_eq!(ring.0.state.lock().free.len(), SLOTS as usize, "every slot is free again");
    }

    #[tokio::test]
    async fn bytes_come_behind_those_that_are_there_and_the_end_gives_none() {
        let (_folder, file) = file(b"0123456789");
        let Some(ring) = Ring::open() else { return };
        let mut buffer = BytesMut::with_capacity(64);
        buffer.extend_from_slice(b"ab");
        let (buffer, result) = ring.read(&file, buffer, 4, 62).await;
        assert_eq!((&buffer[..], result.unwrap()), (&b"ab456789"[..], 6));
        assert_eq!(ring.read(&file, buffer, 10, 5).await.1.unwrap(), 0);
        let closed = Arc::new(File::open("/").unwrap());
        assert!(ring.read(&closed, BytesMut::with_capacity(8), 0, 8).await.1.is_err(), "a folder can't be read");
    }

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_frees_its_slot() {
        // Nothing ever comes out of this pipe until something is put in.
        let (reader, mut writer) = io::pipe().unwrap();
        let pipe = Arc::new(File::from(OwnedFd::from(reader)));
        let Some(ring) = Ring::open() else { return };
        let wait = ring.ask(&pipe, BytesMut::with_capacity(8), u64::MAX, 8).ok().unwrap();
        assert_eq!(ring.0.state.lock().free.len(), SLOTS as usize - 1);
        drop(wait);
        writer.write_all(b"late").unwrap();
        for _ in 0..1000 {
            if ring.0.state.lock().free.len() == SLOTS as usize {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the slot is never freed");
    }

    #[test]
    fn a_runtime_that_ends_leaves_no_one_waiting() {
        let (reader, _writer) = io::pipe().unwrap();
        let pipe = Arc::new(File::from(OwnedFd::from(reader)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let opened = runtime.block_on(async { Ring::open() });
        let Some(ring) = opened else { return };
        let wait = ring.ask(&pipe, BytesMut::with_capacity(8), u64::MAX, 8).ok().unwrap();
        drop(runtime);
        assert!(wait.blocking_recv().is_err());
        assert!(ring.ask(&pipe, BytesMut::with_capacity(8), u64::MAX, 8).is_err(), "nothing new is asked");
    }
}
