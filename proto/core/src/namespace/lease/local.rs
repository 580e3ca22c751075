//! What a holder knows of the directories it has leased, with the changes it made there on its own. A value: it decides
//! which requests it can serve ([`Local::way`]), serves them, and says what to send.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Held, Place, may_hold};
use crate::codec::{self, Head};
use crate::entry::Cred;
use crate::ids::{ClientId, Epoch, Ino, SlotId, SpaceId, VolumeId};
use crate::keys;
use crate::limits::{MAX_HELD_WEIGHT, MAX_LEASES};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Attr, Extent, ExtentBody, Inode, Kind};
use crate::namespace::op::Op;
use crate::namespace::outcome::Outcome;
use crate::namespace::query::{self, Answer, Found, Query};
use crate::namespace::records;
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::view::ViewError;

/// Bytes that a record in memory costs beside its own.
const RECORD_COST: usize = 96;
/// Where the counts of a volume begin that knows only its leased parts: they are taken down by less than they were
/// brought up, but for what the server counted.
const SOME: u64 = 1 << 48;

/// How a request is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is about nothing leased: at the server.
    Away,
    /// It is about what is below this leased directory and can be served here.
    Here(Ino),
    /// It is about files below these leased directories, of which not all is known here: at the server, after what is
    /// held back; what it answers is learnt ([`Local::learn`]). Never about directories: there the server asks for the
    /// lease first, from the one who waits for its answer.
    Through(Vec<Ino>),
    /// It reaches over the border of these leases: they are given up first.
    Break(Vec<Ino>),
}

/// What came of serving a change here.
#[derive(Debug)]
pub enum Tried {
    /// Done: what to answer, what to send, and how many records it changes there.
    Done(Outcome, Box<Held>, usize),
    /// Refused, as the server would.
    Refused(Refusal),
    /// It can't be told here: as with [`Way::Through`].
    Elsewhere,
}

/// What one session knows under its leases in one volume.
#[derive(Debug)]
pub struct Local {
    volume: VolumeId,
    client: ClientId,
    head: Head,
    records: BTreeMap<Bytes, Bytes>,
    bytes: usize,
    /// Of each leased directory, its real parent.
    roots: BTreeMap<Ino, Ino>,
    under: BTreeMap<Ino, Under>,
    /// Inode numbers that are free.
    numbers: Vec<(Ino, Ino)>,
}

/// An inode below a leased directory, or one itself.
#[derive(Clone, Copy, Debug)]
struct Under {
    root: Ino,
    /// Of a file: whether its whole map is known.
    map: bool,
}

impl Local {
    /// Nothing is leased yet.
    pub fn new(volume: VolumeId, client: ClientId, space: SpaceId) -> Local {
        let head = Head {
            space,
            slot: SlotId(0),
            epoch: Epoch(1),
            next_ino: Ino::MAX,
            bytes: SOME,
            inodes: SOME,
            max_bytes: 0,
            max_inodes: 0,
        };
        let mut local = Local {
            volume,
            client,
            head: head.clone(),
            records: BTreeMap::new(),
            bytes: 0,
            roots: BTreeMap::new(),
            under: BTreeMap::new(),
            numbers: Vec::new(),
        };
        local.put(keys::head(volume), Some(codec::encode(&head)));
        local
    }

    /// A lease was taken, on an empty directory; or more numbers, if it is held already.
    pub fn lease(&mut self, dir: &Attr, first: Ino, numbers: u32) {
        self.numbers.push((first, Ino(first.0 + u64::from(numbers))));
        if self.roots.contains_key(&dir.ino) {
            return;
        }
        self.roots.insert(dir.ino, dir.parent);
        self.under.insert(dir.ino, Under { root: dir.ino, map: false });
        // The way up from anything below ends here: the loop check of a rename goes no further.
        let inode = Inode { parent: Ino::ROOT, ..from_attr(dir, 0) };
        self.put_inode(dir.ino, &inode);
    }

    /// The leased directories.
    pub fn roots(&self) -> Vec<Ino> {
        self.roots.keys().copied().collect()
    }

    /// The lease that an inode is under.
    pub fn root_of(&self, ino: Ino) -> Option<Ino> {
        self.under.get(&ino).map(|under| under.root)
    }

    /// How many inode numbers are left.
    pub fn numbers_left(&self) -> u64 {
        self.numbers.iter().map(|(from, to)| to.0 - from.0).sum()
    }

    /// Memory in use, in bytes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A lease is no more: nothing below it is known.
    pub fn give_up(&mut self, root: Ino) {
        self.roots.remove(&root);
        let gone: Vec<Ino> = self.under.iter().filter(|(_, under)| under.root == root).map(|(ino, _)| *ino).collect();
        for ino in gone {
            self.forget_map(ino);
            self.under.remove(&ino);
            for bounds in [keys::dirents(self.volume, ino, None), keys::xattrs(self.volume, ino)] {
                self.remove_all(bounds);
            }
            self.put(keys::inode(self.volume, ino), None);
        }
    }

    /// Forgets the maps of files, but for `keep`, so that their bytes are not kept in memory: they are the server's to
    /// tell from now on. Of those in `keep` it does not have all yet.
    pub fn forget_maps(&mut self, keep: &BTreeSet<Ino>) {
        let known = |(ino, under): (&Ino, &Under)| (under.map && !keep.contains(ino)).then_some(*ino);
        let gone: Vec<Ino> = self.under.iter().filter_map(known).collect();
        for ino in gone {
            self.forget_map(ino);
        }
    }

    /// How a change is to be made.
    pub fn way(&self, op: &Op) -> Way {
        let touched: Vec<Ino> = match op {
            Op::Mkdir { parent, .. }
            | Op::Create { parent, .. }
            | Op::Tmpfile { parent, .. }
            | Op::Mknod { parent, .. }
            | Op::Symlink { parent, .. }
            | Op::Unlink { parent, .. }
            | Op::Rmdir { parent, .. }
            | Op::MakeJunction { parent, .. }
            | Op::RemoveJunction { parent, .. } => vec![*parent],
            Op::Link { ino, parent, .. } => vec![*ino, *parent],
            Op::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
            Op::Setattr { ino, .. }
            | Op::Truncate { ino, .. }
            | Op::Allocate { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. } => vec![*ino],
            Op::Commit(commit) => vec![commit.ino],
            Op::CopyRange { source_volume, source, target, .. } => {
                let source = (*source_volume == self.volume).then_some(*source);
                let leased: Vec<Ino> =
                    source.into_iter().chain([*target]).filter(|ino| self.root_of(*ino).is_some()).collect();
                let roots: Vec<Ino> = leased.iter().filter_map(|ino| self.root_of(*ino)).collect();
                return match leased.iter().all(|ino| self.is_file(*ino)) {
                    _ if roots.is_empty() => Way::Away,
                    true => Way::Through(roots),
                    false => Way::Break(roots),
                };
            }
            Op::Lease { .. } | Op::Held { .. } => return Way::Away,
        };
        let roots: BTreeSet<Option<Ino>> = touched.iter().map(|ino| self.root_of(*ino)).collect();
        let mut roots = roots.into_iter();
        match (roots.next().flatten(), roots.next()) {
            (None, None) => Way::Away,
            (Some(root), None) => match op {
                Op::Truncate { ino, .. } | Op::Commit(crate::namespace::op::Commit { ino, .. })
                    if self.is_file(*ino) && !self.knows_map(*ino) =>
                {
                    Way::Through(vec![root])
                }
                Op::Allocate { ino, .. } if self.is_file(*ino) => Way::Through(vec![root]),
                op if may_hold(op) => Way::Here(root),
                _ => Way::Break(vec![root]),
            },
            (one, other) => Way::Break(one.into_iter().chain(other.flatten()).collect()),
        }
    }

    /// How a question is to be answered.
    pub fn way_to_ask(&self, query: &Query) -> Way {
        let (ino, of_map) = match query {
            Query::Lookup { parent, .. } => (*parent, false),
            Query::Readdir { dir, .. } => (*dir, false),
            Query::Open { ino, .. } | Query::Map { ino, .. } => (*ino, true),
            Query::Getattr { ino }
            | Query::Readlink { ino }
            | Query::GetXattr { ino, .. }
            | Query::ListXattr { ino }
            | Query::Access { ino, .. } => (*ino, false),
            Query::Statfs | Query::Slot { .. } => return Way::Away,
        };
        match self.under.get(&ino) {
            None => Way::Away,
            Some(under) if of_map && self.is_file(ino) && !self.knows_map(ino) => Way::Through(vec![under.root]),
            Some(under) => Way::Here(under.root),
        }
    }

    /// Makes a change for which [`Local::way`] said so.
    pub fn apply(&mut self, root: Ino, now: Timestamp, cred: &Cred, op: &Op) -> Tried {
        let makes = matches!(op, Op::Mkdir { .. } | Op::Create { .. } | Op::Mknod { .. } | Op::Symlink { .. });
        let new_ino = makes.then(|| self.numbers.first().map(|(from, _)| *from)).flatten();
        let item = Held { root, new_ino, time: now, cred: cred.clone(), op: op.clone() };
        // With no more room than is left behind the fullest batch, so that what is done here can be done there.
        let used = MAX_HELD_WEIGHT + MAX_LEASES;
        let here = Place { view: &self.records, volume: self.volume, head: &self.head, client: self.client, used };
        let made = match here.run(now, &item) {
            Ok(made) => made,
            // Where it can't be finished in one go, and where no number is left, the server goes on.
            Err(Fail::Unfinished(_)) => return Tried::Elsewhere,
            Err(Fail::Refused(Refusal::Invalid { .. })) if makes && new_ino.is_none() => return Tried::Elsewhere,
            Err(Fail::Refused(Refusal::CutPending { .. })) => return Tried::Elsewhere,
            Err(Fail::Refused(refusal)) => return Tried::Refused(refusal),
            // A record that is missing here.
            Err(Fail::View(_)) => return Tried::Elsewhere,
        };
        let weight = made.changes.len();
        if weight > MAX_HELD_WEIGHT {
            return Tried::Elsewhere;
        }
        self.head = made.head;
        for (key, value) in made.changes {
            if keys::is_of_volume(&key) || keys::is_chunk(&key) {
                self.put(key, value);
            }
        }
        if let Outcome::Created { attr, fresh: true } = &made.outcome {
            self.under.insert(attr.ino, Under { root, map: attr.kind == Kind::File });
            if let Some((from, to)) = self.numbers.first_mut() {
                from.0 += 1;
                if from == to {
                    self.numbers.remove(0);
                }
            }
        }
        let outcome = match made.outcome {
            Outcome::Attr(attr) => Outcome::Attr(self.shown(attr)),
            outcome => outcome,
        };
        Tried::Done(outcome, Box::new(item), weight)
    }

    /// Answers a question for which [`Local::way_to_ask`] said so.
    ///
    /// # Errors
    /// What the server would refuse; the view's, where something is missing here.
    pub fn ask(&self, cred: &Cred, query: &Query) -> Result<Result<Answer, Refusal>, ViewError> {
        match query::answer(&self.records, self.volume, ClientId(0), cred, query) {
            Ok(answer) => Ok(Ok(self.show(answer))),
            Err(Fail::Refused(refusal) | Fail::Unfinished(refusal)) => Ok(Err(refusal)),
            Err(Fail::View(error)) => Err(error),
        }
    }

    /// An answer of the server with the attributes of what is leased as they are here.
    pub fn correct(&self, answer: Answer) -> Answer {
        let newer = |attr: Attr| self.attr(attr.ino).unwrap_or(attr);
        match answer {
            Answer::Found(Found::Inode(attr)) => Answer::Found(Found::Inode(newer(attr))),
            Answer::Entries { mut entries, end, dir } => {
                for entry in &mut entries {
                    entry.attr = entry.attr.take().map(newer);
                }
                Answer::Entries { entries, end, dir }
            }
            Answer::Map { attr, extents, more_from } => Answer::Map { attr: newer(attr), extents, more_from },
            answer => answer,
        }
    }

    /// The server's attributes of a file, behind all that was held back: what a request that went through left.
    pub fn learn(&mut self, attr: &Attr) {
        if !self.under.contains_key(&attr.ino) || attr.kind != Kind::File {
            return;
        }
        self.forget_map(attr.ino);
        if let Ok(Some(known)) = records::inode_if(&self.records, self.volume, attr.ino) {
            self.put_inode(attr.ino, &from_attr(attr, known.xattr_list));
        }
    }

    /// What is known here of an inode.
    fn attr(&self, ino: Ino) -> Option<Attr> {
        let under = self.under.contains_key(&ino);
        let inode = under.then(|| records::inode_if(&self.records, self.volume, ino)).and_then(Result::ok).flatten()?;
        Some(self.shown(records::attr(self.volume, ino, &inode)))
    }

    /// A leased directory with its real parent.
    fn shown(&self, attr: Attr) -> Attr {
        match self.roots.get(&attr.ino) {
            Some(parent) => Attr { parent: *parent, ..attr },
            None => attr,
        }
    }

    fn show(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Attr(attr) => Answer::Attr(self.shown(attr)),
            Answer::Entries { entries, end, dir } => Answer::Entries { entries, end, dir: self.shown(dir) },
            answer => answer,
        }
    }

    fn is_file(&self, ino: Ino) -> bool {
        self.attr(ino).is_some_and(|attr| attr.kind == Kind::File)
    }

    fn knows_map(&self, ino: Ino) -> bool {
        self.under.get(&ino).is_some_and(|under| under.map)
    }

    fn forget_map(&mut self, ino: Ino) {
        let Some(under) = self.under.get_mut(&ino) else { return };
        if !std::mem::take(&mut under.map) {
            return;
        }
        // Of earlier generations as well: here nobody removes them in steps.
        let (from, to) = keys::file_extents(self.volume, ino);
        let mut chunks = BTreeSet::new();
        for (key, value) in self.records.range(from..to) {
            if let Ok(Extent { body: ExtentBody::Chunk { chunk, .. }, .. }) = records::born(key, value) {
                chunks.insert(chunk);
            }
        }
        for chunk in chunks {
            self.put(keys::chunk(self.head.space, chunk), None);
        }
        self.remove_all(keys::file_extents(self.volume, ino));
    }

    fn put_inode(&mut self, ino: Ino, inode: &Inode) {
        self.put(keys::inode(self.volume, ino), Some(codec::encode_born(self.head.epoch, inode)));
    }

    fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        let cost = |key: &Bytes, value: &Bytes| key.len() + value.len() + RECORD_COST;
        let old = match value {
            Some(value) => {
                self.bytes += cost(&key, &value);
                self.records.insert(key.clone(), value)
            }
            None => self.records.remove(&key),
        };
        if let Some(old) = old {
            self.bytes -= cost(&key, &old);
        }
    }

    fn remove_all(&mut self, (from, to): (Bytes, Bytes)) {
        let gone: Vec<Bytes> = self.records.range(from..to).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.put(key, None);
        }
    }
}

/// The record of an inode that has no target and no cut.
fn from_attr(attr: &Attr, xattr_list: u32) -> Inode {
    Inode {
        kind: attr.kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        allocated: attr.allocated,
        // Not told; nothing here asks for it.
        small: 0,
        rdev: attr.rdev,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        btime: attr.btime,
        xattr_list,
        generation: attr.generation,
        cut_at: None,
        version: attr.version,
        parent: attr.parent,
        target: Bytes::new(),
        acl: attr.acl.clone(),
        default_acl: attr.default_acl.clone(),
    }
}
