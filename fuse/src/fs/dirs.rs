//! Listing directories. An open directory holds a stretch of entries fetched in one question and hands them to the
//! kernel in the pieces that it asks for.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use weft_client::{Dirent, Ino, Kind, ListedEntry, Name, Refusal, Volume};

use super::{Answer, State, TRIES};
use crate::cursor::{BEHIND_PARENT, BEHIND_SELF, Cursor, START};
use crate::handles::OpenDir;
use crate::inodes::{Place, Tick, broken_junction, st_ino};
use crate::request::{DirItem, Errno, HandleId, Listing, NodeId, Opened, Process};

/// Entries fetched in one question.
const FETCH: u32 = 1024;

/// Where readers of an open directory are, and what was fetched for them.
#[derive(Default)]
pub(crate) struct DirState {
    cursor: Cursor,
    /// The offset at which `fetched` begins.
    at: u64,
    /// The name before it.
    after: Option<Name>,
    fetched: VecDeque<ListedEntry>,
    /// When and how `fetched` was asked for.
    asked: Option<Asked>,
    /// Whether the directory ends behind `fetched`.
    end: bool,
    /// The directory's parent, known from the first question on.
    parent: Option<Ino>,
}

#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    tick: Tick,
    plus: bool,
}

impl DirState {
    fn drop_fetched(&mut self) {
        self.fetched.clear();
        self.asked = None;
        self.end = false;
    }
}

impl State {
    pub(super) fn opendir(&self, process: Process, node: NodeId) -> Answer<Opened> {
        self.place(node)?;
        let dir = OpenDir { node, cred: self.cred(process), state: tokio::sync::Mutex::default() };
        let handle = self.handles.open_dir(dir);
        Ok(Opened { handle, keep_cache: false, no_flush: false, direct: false })
    }

    pub(super) async fn readdir(
        &self,
        handle: HandleId,
        offset: u64,
        plus: bool,
        listing: &mut dyn Listing,
    ) -> Answer<()> {
        let dir = self.handles.dir(handle).ok_or(Errno(libc::EBADF))?;
        let place = self.place(dir.node)?;
        let mut state = dir.state.lock().await;
        let state = &mut *state;
        self.seek(&dir, &place, state, offset, plus).await?;
        if state.at == START {
            let item = dot(b".", BEHIND_SELF, self.shown_ino(dir.node));
            if !listing.add(&item) {
                return Ok(());
            }
            state.at = BEHIND_SELF;
        }
        if state.at == BEHIND_SELF {
            let item = dot(b"..", BEHIND_PARENT, self.parent_ino(&dir, &place, state, plus).await?);
            if !listing.add(&item) {
                return Ok(());
            }
            state.at = BEHIND_PARENT;
        }
        let mut added = false;
        let mut refetched = 0;
        loop {
            if !self.current(&dir, state, plus) {
                if added {
                    // What is there is worth sending; the kernel comes back for the rest.
                    return Ok(());
                }
                self.fetch(&dir, &place, state, plus).await?;
            }
            let Some(entry) = state.fetched.front().cloned() else {
                if state.end {
                    return Ok(());
                }
                state.drop_fetched();
                continue;
            };
            let next = if state.at < BEHIND_PARENT { BEHIND_PARENT } else { state.cursor.next() };
            let shown = match self.item(&dir, &place, state, &entry, next, plus).await? {
                Shown::Item(shown) => shown,
                Shown::Old if refetched < TRIES => {
                    refetched += 1;
                    state.drop_fetched();
                    continue;
                }
                // Gone, or changing faster than it can be asked for: a lookup will tell.
                Shown::Old | Shown::Gone => {
                    state.pass();
                    continue;
                }
            };
            if !listing.add(&shown.item) {
                return Ok(());
            }
            added = true;
            if let Some(LookedUp { node, place, above, version }) = shown.looked_up {
                self.inodes.looked_up(node, &place, above);
                self.inodes.told(node, version);
            }
            state.pass();
            state.at = state.cursor.issue(&entry.name);
        }
    }

    /// Brings the state to an offset. Reading on where the last piece ended costs nothing.
    async fn seek(
        &self,
        dir: &OpenDir,
        place: &Place<Volume>,
        state: &mut DirState,
        offset: u64,
        plus: bool,
    ) -> Answer<()> {
        if offset == START {
            state.drop_fetched();
            state.cursor.rewind();
            state.after = None;
            state.at = START;
        } else if offset != state.at {
            let position = state.cursor.find(offset);
            state.drop_fetched();
            state.after = position.after;
            for _ in 0..position.skip {
                if !self.current(dir, state, plus) {
                    self.fetch(dir, place, state, plus).await?;
                }
                if state.fetched.is_empty() {
                    break;
                }
                state.pass();
            }
            state.at = offset;
        }
        Ok(())
    }

    /// Whether what was fetched may still be shown: not older than the kernel may believe anything, asked with
    /// attributes if they are wanted, and no name of the directory changed through this mount since.
    fn current(&self, dir: &OpenDir, state: &DirState, plus: bool) -> bool {
        let Some(asked) = state.asked else { return false };
        (!state.fetched.is_empty() || state.end)
            && (asked.plus || !plus)
            && asked.at.elapsed() < self.ttl.max(Duration::from_millis(100))
            && self.inodes.names_unchanged_since(dir.node, asked.tick)
    }

    async fn fetch(&self, dir: &OpenDir, place: &Place<Volume>, state: &mut DirState, plus: bool) -> Answer<()> {
        let asked = Asked { at: Instant::now(), tick: self.inodes.now(), plus };
        state.drop_fetched();
        match place.volume.readdir(&dir.cred, place.ino, state.after.clone(), FETCH, plus).await {
            Ok(listing) => {
                state.parent = Some(listing.dir.parent);
                state.fetched = listing.entries.into();
                state.end = listing.end;
            }
            // A directory that was removed while open is empty.
            Err(error) if matches!(error.refusal(), Some(Refusal::NoInode { .. })) => state.end = true,
            Err(error) => return Err(error.into()),
        }
        state.asked = Some(asked);
        Ok(())
    }

    async fn parent_ino(&self, dir: &OpenDir, place: &Place<Volume>, state: &mut DirState, plus: bool) -> Answer<u64> {
        if place.ino == Ino::ROOT {
            return Ok(self.shown_ino(self.inodes.above(dir.node).unwrap_or(dir.node)));
        }
        if state.parent.is_none() {
            self.fetch(dir, place, state, plus).await?;
        }
        Ok(st_ino(place.volume.view(), state.parent.unwrap_or(place.ino)))
    }

    /// An entry as the kernel is shown it.
    async fn item(
        &self,
        dir: &OpenDir,
        place: &Place<Volume>,
        state: &DirState,
        entry: &ListedEntry,
        next: u64,
        plus: bool,
    ) -> Answer<Shown> {
        let name = entry.name.to_bytes();
        let (volume, attr, above) = match entry.dirent {
            Dirent::Inode { ino, kind } if !plus => {
                let st_ino = st_ino(place.volume.view(), ino);
                return Ok(Shown::plain(DirItem { name, next, st_ino, kind, attr: None }));
            }
            Dirent::Inode { ino, .. } => match &entry.attr {
                Some(attr) => (place.volume.clone(), attr.clone(), None),
                None => match place.volume.getattr(&dir.cred, ino).await {
                    Ok(attr) => (place.volume.clone(), attr, None),
                    Err(error) if matches!(error.refusal(), Some(Refusal::NoInode { .. })) => return Ok(Shown::Gone),
                    Err(error) => return Err(error.into()),
                },
            },
            Dirent::Junction(slot) => {
                let found = match place.volume.follow(slot).await {
                    Ok(volume) => self.root_attr(&dir.cred, &volume).await.map(|attr| (volume, attr)),
                    Err(error) => Err(error.into()),
                };
                match found {
                    Ok((volume, attr)) => (volume, attr, Some(dir.node)),
                    Err(errno) => {
                        // A volume that can't be reached does not make the directory above it unreadable.
                        tracing::debug!(?slot, ?errno, "follow a junction");
                        let (st_ino, kind) = (broken_junction(slot.slot.0), Kind::Directory);
                        return Ok(Shown::plain(DirItem { name, next, st_ino, kind, attr: None }));
                    }
                }
            }
        };
        let child = self.inodes.node(volume.view(), attr.ino);
        let st_ino = st_ino(volume.view(), attr.ino);
        let kind = attr.kind;
        if !plus || child == NodeId::ROOT {
            return Ok(Shown::plain(DirItem { name, next, st_ino, kind, attr: None }));
        }
        let Some(asked) = state.asked else { return Ok(Shown::Old) };
        if above.is_none() && !self.inodes.unchanged_since(child, asked.tick) {
            return Ok(Shown::Old);
        }
        self.settle(child, &attr).await;
        let ttl = self.ttl.saturating_sub(asked.at.elapsed());
        let place = Place { volume, ino: attr.ino };
        let looked_up = Some(LookedUp { node: child, place, above, version: attr.version });
        Ok(Shown::Item(Box::new(ShownItem {
            item: DirItem { name, next, st_ino, kind, attr: Some((attr, ttl)) },
            looked_up,
        })))
    }
}

impl DirState {
    /// Takes the first fetched entry off: reading goes on behind it.
    fn pass(&mut self) {
        if let Some(entry) = self.fetched.pop_front() {
            self.after = Some(entry.name);
        }
    }
}

enum Shown {
    Item(Box<ShownItem>),
    /// Its attributes are older than a change made through this mount.
    Old,
    /// It was removed.
    Gone,
}

struct ShownItem {
    item: DirItem,
    looked_up: Option<LookedUp>,
}

/// What the kernel has looked up once the entry is in its hands.
struct LookedUp {
    node: NodeId,
    place: Place<Volume>,
    above: Option<NodeId>,
    version: u64,
}

impl Shown {
    fn plain(item: DirItem) -> Shown {
        Shown::Item(Box::new(ShownItem { item, looked_up: None }))
    }
}

fn dot(name: &'static [u8], next: u64, st_ino: u64) -> DirItem {
    DirItem { name: bytes::Bytes::from_static(name), next, st_ino, kind: Kind::Directory, attr: None }
}
