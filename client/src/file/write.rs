//! Writing: into memory, with full chunks uploaded in the background and a bound on what is held.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::limits::{MAX_CHUNK, MAX_FILE};
use weft_core::refusal::Refusal;
use weft_core::span::Span;

use super::dirty::Upload;
use super::plan;
use super::state::{FileState, Inner, without_suid};
use crate::error::{Error, Result};
use crate::trial::Trial;

/// Under pressure shorter stretches than this share a chunk.
const WORTH_A_CHUNK: u64 = 64 << 10;
/// More segments than this are committed without waiting for a flush.
const MOST_SEGMENTS: usize = 2048;

impl FileState {
    /// Writes at an offset, or at the end; returns where.
    pub(super) async fn write(self: &Arc<Self>, cred: &Cred, at: Option<u64>, data: Bytes) -> Result<u64> {
        self.session.check()?;
        self.room(data.len() as u64).await?;
        let now = self.shared.parts.clock.now();
        let (offset, uploads, many) = self.change(|inner| {
            let offset = at.unwrap_or_else(|| inner.size());
            let len = data.len() as u64;
            let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE);
            let Some(end) = end else {
                return Err(Error::Refused(Refusal::FileTooBig { size: offset.saturating_add(len) }));
            };
            if data.is_empty() {
                return Ok((offset, Vec::new(), false));
            }
            inner.dirty.write(offset, data);
            inner.pending.mtime = Some(now);
            inner.pending.set.mtime = None;
            if cred.uid != 0 {
                forgo_privilege(inner);
            }
            inner.writer = cred.clone();
            let instant = Instant::now();
            inner.last_write = Some(instant);
            inner.dirty_since.get_or_insert(instant);
            Ok((offset, full_chunks(inner, Span { start: offset, end }), inner.dirty.len() > MOST_SEGMENTS))
        })?;
        self.start(uploads);
        if many && self.commit.try_lock().is_ok() {
            self.flush_in_background();
        }
        Ok(offset)
    }

    /// What is committed next clears set-user-id and set-group-id.
    pub(super) fn forgo_privilege(&self) {
        self.change(forgo_privilege);
    }

    /// Waits until `len` more bytes may be held; what is held is uploaded meanwhile.
    async fn room(self: &Arc<Self>, len: u64) -> Result<()> {
        let options = &self.shared.options;
        let budget = &self.shared.budget;
        let mut entered: Option<(Trial, u64)> = None;
        loop {
            let shrunk = budget.shrunk().notified();
            tokio::pin!(shrunk);
            shrunk.as_mut().enable();
            let (mine, failures, last) = {
                let inner = self.lock();
                let held = inner.dirty.held() + inner.committing.held();
                (held, inner.troubles.failures, inner.troubles.last.clone())
            };
            let all = budget.held();
            let fits = |held: u64, limit: u64| held == 0 || held + len <= limit;
            if fits(mine, options.file_dirty_bytes) && fits(all, options.client_dirty_bytes) {
                return Ok(());
            }
            let (trial, failures_then) = entered.get_or_insert_with(|| (Trial::new(options), failures));
            if failures > *failures_then
                && let Some(error) = last
            {
                return Err(error);
            }
            self.press();
            if !fits(all, options.client_dirty_bytes) {
                for other in self.shared.files.all() {
                    other.press();
                }
            }
            if tokio::time::timeout(trial.left(), shrunk).await.is_err() {
                return Err(trial.over("what was written before is still not stored"));
            }
        }
    }

    /// Uploads what is held, unless an upload is under way already.
    fn press(self: &Arc<Self>) {
        let uploads = self.change(|inner| {
            if inner.dirty.uploading_up_to(u64::MAX) {
                return Vec::new();
            }
            let runs = inner.dirty.runs();
            let large: Vec<Vec<Span>> =
                runs.iter().filter(|run| run.len() >= WORTH_A_CHUNK).map(|run| vec![*run]).collect();
            let chunks = if large.is_empty() { plan::packed(&runs) } else { large };
            chunks.iter().map(|spans| inner.dirty.upload(spans)).collect()
        });
        self.start(uploads);
    }

    /// Uploads in the background.
    pub(super) fn start(self: &Arc<Self>, uploads: Vec<Upload>) {
        for upload in uploads {
            let state = self.clone();
            tokio::spawn(async move {
                let permit = state.uploads.clone().acquire_owned().await;
                let stored = state.shared.put_chunk(&state.session, state.volume.replication, upload.data).await;
                drop(permit);
                state.change(|inner| match stored {
                    Ok(stored) => inner.dirty.uploaded(upload.id, Some(stored)),
                    Err(error) => {
                        tracing::warn!(volume = %state.volume.id, ino = %state.ino, %error, "store written bytes");
                        inner.dirty.uploaded(upload.id, None);
                        inner.fail(error);
                    }
                });
                state.changed.notify_waiters();
                state.shared.budget.shrunk().notify_waiters();
            });
        }
    }
}

fn forgo_privilege(inner: &mut Inner) {
    inner.pending.clear_suid = true;
    inner.pending.set.mode = inner.pending.set.mode.map(without_suid);
}

/// Uploads for the aligned parts of the file that a write completed.
fn full_chunks(inner: &mut Inner, written: Span) -> Vec<Upload> {
    let chunk = u64::from(MAX_CHUNK);
    let mut uploads = Vec::new();
    let mut start = written.start / chunk * chunk;
    while start < written.end {
        if let Some(run) = inner.dirty.run_ending_at(start + chunk)
            && run.start == start
        {
            uploads.push(inner.dirty.upload(&[run]));
        }
        start += chunk;
    }
    uploads
}
