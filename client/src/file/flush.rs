//! Making what was written durable and true for everyone: chunks first, then one commit that names them.

use std::sync::Arc;

use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::namespace::inode::{Attr, Extent};
use weft_core::namespace::op::{Commit, Op, SetAttr, SetTime};
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;
use weft_core::span::Span;

use super::map::Map;
use super::plan;
use super::state::{FileState, Inner, Pending, over};
use crate::error::{Error, Result};
use crate::lease::Uploading;

impl FileState {
    /// Makes everything written before durable and committed. Goes on to its end even if nobody waits for it any more,
    /// so that commits stay in order.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<()> {
        if self.lock().is_clean() && self.commit.try_lock().is_ok() {
            return Ok(());
        }
        let state = self.clone();
        finish(tokio::spawn(async move {
            let _alone = state.commit.lock().await;
            // Whoever had the lock before may have committed what this one came for.
            let clean = state.lock().is_clean();
            if clean { Ok(()) } else { state.flush_alone().await }
        }))
        .await
    }

    /// Whether a flush has nothing to upload and nothing to wait for.
    pub(super) fn flushes_at_once(&self) -> bool {
        let free = self.commit.try_lock().is_ok();
        let inner = self.lock();
        free && !inner.dirty.uploading_up_to(u64::MAX) && plan::at_flush(&inner.dirty.runs()).chunks.is_empty()
    }

    /// The same, with an error kept for whoever writes or flushes next.
    pub(super) fn flush_in_background(self: &Arc<Self>) {
        self.flush_behind(None);
    }

    /// The same, with something that is kept until it is over.
    pub(super) fn flush_behind(self: &Arc<Self>, kept: Option<Uploading>) {
        let state = self.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = state.flush().await {
                    tracing::warn!(volume = %state.volume.id, ino = %state.ino, %error, "flush in the background");
                    state.shared.note_lost(state.volume.id, state.ino, &error);
                    state.change(|inner| inner.fail(error));
                }
                drop(kept);
            });
        }
    }

    /// Flushes in the background what has been left alone for a while.
    pub(crate) fn flush_if_idle(self: &Arc<Self>) {
        let after = self.shared.options.flush_after;
        let due = {
            let inner = self.lock();
            let since = |at: Option<Instant>| at.map(|at| at.elapsed()).unwrap_or_default();
            !inner.is_clean() && (since(inner.last_write) >= after || since(inner.dirty_since) >= after * 10)
        };
        if due && self.commit.try_lock().is_ok() {
            self.flush_in_background();
        }
    }

    /// Flushes, for a caller outside the file's handles.
    pub(crate) async fn settle(self: &Arc<Self>) -> Result<()> {
        self.flush().await
    }

    /// With the commit lock held.
    async fn flush_alone(self: &Arc<Self>) -> Result<()> {
        if let Err(error) = self.session.check() {
            if self.is_dirty() {
                self.change(|inner| inner.lose(error.clone()));
                return Err(error);
            }
            return Ok(());
        }
        let (uploads, mark, failures) = self.change(|inner| {
            let plan = plan::at_flush(&inner.dirty.runs());
            let uploads: Vec<_> = plan.chunks.iter().map(|spans| inner.dirty.upload(spans)).collect();
            inner.dirty.seal(&plan.inline);
            (uploads, inner.dirty.last_upload(), inner.troubles.failures)
        });
        self.start(uploads);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.lock().dirty.uploading_up_to(mark) {
                break;
            }
            changed.await;
        }
        let (extents, pending, writer) = self.change(|inner| {
            if inner.troubles.failures > failures {
                return Err(inner.troubles.last.clone().unwrap_or(Error::Closed));
            }
            let taken = inner.dirty.take_ready();
            let extents = taken.extents();
            inner.committing = taken;
            inner.committing_pending = std::mem::take(&mut inner.pending);
            Ok((extents, inner.committing_pending.clone(), inner.writer.clone()))
        })?;
        let result = self.commit_all(&writer, extents, pending).await;
        self.change(|inner| match &result {
            Ok(()) => inner.committing_pending = Pending::default(),
            Err(error) if is_final(error) => inner.lose(error.clone()),
            Err(error) => {
                if is_refused_right(error) {
                    // Of the attributes that rode along: the data must not wait for a right that is not granted.
                    inner.committing_pending.set = SetAttr::default();
                }
                let left = std::mem::take(&mut inner.committing);
                inner.dirty.restore(left);
                let newer = std::mem::take(&mut inner.pending);
                inner.pending = std::mem::take(&mut inner.committing_pending);
                inner.pending.absorb(newer);
            }
        });
        result
    }

    /// In as few commits as can hold it; what one committed is no more in `committing`.
    async fn commit_all(&self, writer: &Cred, extents: Vec<Extent>, pending: Pending) -> Result<()> {
        let parts = plan::commits(extents);
        let last = parts.len() - 1;
        for (at, extents) in parts.into_iter().enumerate() {
            let end = extents.iter().map(|extent| extent.offset + u64::from(extent.len)).max().unwrap_or(0);
            let commit = Commit {
                ino: self.ino,
                extents: extents.clone(),
                size_at_least: end,
                mtime: pending.mtime,
                set: if at == last { pending.set.clone() } else { SetAttr::default() },
                clear_suid: pending.clear_suid,
            };
            match self.apply(writer, &Op::Commit(commit)).await? {
                Outcome::Attr(attr) => self.change(|inner| committed(inner, attr, extents)),
                _ => return Err(Error::unexpected("a commit")),
            }
        }
        Ok(())
    }

    /// Sets the size after what was written before.
    pub(crate) async fn truncate(self: &Arc<Self>, cred: &Cred, size: u64, set: SetAttr, opened: bool) -> Result<Attr> {
        let (state, cred) = (self.clone(), cred.clone());
        finish(tokio::spawn(async move {
            let _alone = state.commit.lock().await;
            state.session.check()?;
            state.change(|inner| inner.dirty.cut(size));
            if size > 0 {
                state.flush_alone().await?;
            }
            // Attributes changed after the last byte that is left go with the new size.
            let pending = state.change(|inner| match inner.dirty.is_empty() {
                true => std::mem::take(&mut inner.pending),
                false => Pending::default(),
            });
            let set = over(SetAttr { mtime: None, ..pending.set.clone() }, set);
            let op = Op::Truncate { ino: state.ino, size, set, opened };
            match state.apply(&cred, &op).await {
                Ok(Outcome::Attr(attr)) => Ok(state.change(|inner| {
                    let known = inner.attr.as_ref().map_or(0, |known| known.version);
                    if attr.version > known + 1 {
                        inner.ours_since = attr.version;
                    }
                    match attr.version {
                        version if version < known => inner.map.forget(),
                        _ if size == 0 => inner.map = Map::empty(),
                        version if version == known + 1 => inner.map.cut(size),
                        _ => inner.map.forget(),
                    }
                    inner.checked = Some(Instant::now());
                    newest(inner, attr.clone());
                    inner.show(attr)
                })),
                Ok(_) => Err(Error::unexpected("truncate")),
                Err(error) => {
                    state.change(|inner| {
                        let newer = std::mem::replace(&mut inner.pending, pending);
                        inner.pending.absorb(newer);
                    });
                    Err(error)
                }
            }
        }))
        .await
    }

    /// Sets attributes: with the next commit where it is sure that they will be granted, else at once after what was
    /// written before.
    pub(crate) async fn setattr(self: &Arc<Self>, cred: &Cred, mut set: SetAttr) -> Result<Attr> {
        let now = self.shared.parts.clock.now();
        let rode = self.change(|inner| {
            let owner = inner.attr.as_ref().map(|attr| attr.uid)?;
            let granted = cred.uid == 0 || cred.uid == owner && set.uid.is_none() && set.gid.is_none();
            if inner.dirty.is_empty() || inner.writer.uid != cred.uid || !granted {
                return None;
            }
            for time in [&mut set.atime, &mut set.mtime, &mut set.ctime] {
                if *time == Some(SetTime::Now) {
                    *time = Some(SetTime::To(now));
                }
            }
            let older = std::mem::take(&mut inner.pending.set);
            inner.pending.set = over(older, set.clone());
            inner.attr.clone().map(|attr| inner.show(attr))
        });
        if let Some(attr) = rode {
            return Ok(attr);
        }
        let (state, cred) = (self.clone(), cred.clone());
        finish(tokio::spawn(async move {
            let _alone = state.commit.lock().await;
            if state.is_dirty() {
                state.flush_alone().await?;
            }
            match state.apply(&cred, &Op::Setattr { ino: state.ino, set }).await? {
                Outcome::Attr(attr) => Ok(state.observe(attr)),
                _ => Err(Error::unexpected("setattr")),
            }
        }))
        .await
    }

    async fn apply(&self, cred: &Cred, op: &Op) -> Result<Outcome> {
        self.session.check()?;
        self.shared.apply_in(&self.session, cred, self.volume.id, op).await.map_err(Error::from)
    }
}

/// Waits for a task of ours.
async fn finish<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(Error::Closed),
    }
}

/// After these, trying again can't help.
fn is_final(error: &Error) -> bool {
    matches!(
        error.refusal(),
        Some(
            Refusal::NoInode { .. }
                | Refusal::SessionEnded { .. }
                | Refusal::NoSession { .. }
                | Refusal::ChunkNotYours { .. }
        )
    )
}

/// A commit's data needs no right that was not checked at open; what rides along may.
fn is_refused_right(error: &Error) -> bool {
    matches!(error.refusal(), Some(Refusal::Denied | Refusal::NotPermitted | Refusal::Invalid { .. }))
}

/// A commit's answer: the map is as it was known, with the commit's extents over it, if nobody changed it in between.
fn committed(inner: &mut Inner, attr: Attr, extents: Vec<Extent>) {
    for extent in &extents {
        inner.committing.drop_span(Span { start: extent.offset, end: extent.offset + u64::from(extent.len) });
    }
    let known = inner.attr.as_ref().map_or(0, |known| known.version);
    // A newer version is known already: what is known of it includes this commit.
    if attr.version > known {
        if attr.version != known + 1 {
            inner.map.forget();
            inner.ours_since = attr.version;
        }
        extents.into_iter().for_each(|extent| inner.map.overlay(extent));
        inner.checked = Some(Instant::now());
    }
    newest(inner, attr);
}

/// Keeps the newer of two answers.
fn newest(inner: &mut Inner, attr: Attr) {
    if inner.attr.as_ref().is_none_or(|known| attr.version >= known.version) {
        inner.attr = Some(attr);
    }
}
