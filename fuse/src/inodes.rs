//! The inodes that the kernel knows of this mount: where each lives, how often it was looked up, and what is needed to
//! tell whether an answer that was long on its way is still true.
//!
//! Each successful change made through the mount advances a clock and stamps what it changed. An answer that was asked
//! for before the stamp may be older than the change: it is asked for again instead of being shown to the kernel, which
//! would believe it for a second.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::ids::{Ino, ViewId};
use weft_core::namespace::inode::{Attr, Kind};

use crate::request::NodeId;

const INO_BITS: u32 = 40;
/// A view that no volume ever gets: nodes of it stand for junctions that can't be followed at the moment.
const BROKEN_VIEW: u64 = (1 << 24) - 1;

/// A moment in the order of changes made through this mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

/// Where an inode lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place<V> {
    /// Its volume.
    pub(crate) volume: V,
    /// Its number there.
    pub(crate) ino: Ino,
}

/// How what the server says of a file compares with what the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The kernel's attributes are of this version of the content.
    pub(crate) attributes: bool,
    /// The kernel's pages, if it has any, are of this version.
    pub(crate) pages: bool,
}

/// All of them. `V` is what it takes to reach a volume.
pub(crate) struct InodeTable<V> {
    root_view: ViewId,
    inner: Mutex<Inner<V>>,
}

struct Inner<V> {
    nodes: HashMap<u64, Node<V>>,
    now: u64,
    /// The newest stamp among forgotten nodes.
    forgotten: u64,
    /// See [`InodeTable::distrust`].
    losses: u64,
}

struct Node<V> {
    place: Place<V>,
    lookups: u64,
    /// For a volume's root: the directory whose junction led to it.
    above: Option<NodeId>,
    /// Last change of it through this mount.
    changed: u64,
    /// Last change of names in it through this mount.
    renamed: u64,
    /// Of a directory: its attributes, and since when they are known.
    dir: Option<(Attr, Instant)>,
    /// The content version of the attributes that the kernel was last told.
    told: Option<u64>,
    /// The content version of the pages that the kernel may hold; `None`: it holds none.
    cached: Option<u64>,
}

impl<V: Clone> InodeTable<V> {
    /// A table with the mount's root, which is never forgotten.
    pub(crate) fn new(volume: V, view: ViewId) -> InodeTable<V> {
        let root = Node {
            place: Place { volume, ino: Ino::ROOT },
            lookups: 1,
            above: None,
            changed: 0,
            renamed: 0,
            dir: None,
            told: None,
            cached: None,
        };
        let nodes = HashMap::from([(NodeId::ROOT.0, root)]);
        InodeTable { root_view: view, inner: Mutex::new(Inner { nodes, now: 0, forgotten: 0, losses: 0 }) }
    }

    /// The kernel's number for an inode.
    pub(crate) fn node(&self, view: ViewId, ino: Ino) -> NodeId {
        if view == self.root_view && ino == Ino::ROOT { NodeId::ROOT } else { NodeId(st_ino(view, ino)) }
    }

    /// Where a node lives; `None` if the kernel has no right to ask for it.
    pub(crate) fn place(&self, node: NodeId) -> Option<Place<V>> {
        self.inner.lock().nodes.get(&node.0).map(|found| found.place.clone())
    }

    /// Counts a lookup of an inode that the kernel is about to be told of.
    pub(crate) fn looked_up(&self, node: NodeId, place: &Place<V>, above: Option<NodeId>) {
        if node == NodeId::ROOT {
            return;
        }
        let mut inner = self.inner.lock();
        let found = inner.nodes.entry(node.0).or_insert_with(|| Node {
            place: place.clone(),
            lookups: 0,
            above: None,
            changed: 0,
            renamed: 0,
            dir: None,
            told: None,
            cached: None,
        });
        found.lookups += 1;
        if above.is_some() {
            found.above = above;
        }
    }

    /// The kernel forgets so many lookups; with the last one it forgets the inode and its pages.
    pub(crate) fn forget(&self, node: NodeId, lookups: u64) {
        if node == NodeId::ROOT {
            return;
        }
        let mut inner = self.inner.lock();
        let Some(found) = inner.nodes.get_mut(&node.0) else { return };
        found.lookups = found.lookups.saturating_sub(lookups);
        if found.lookups == 0 {
            let stamp = found.changed;
            inner.nodes.remove(&node.0);
            inner.forgotten = inner.forgotten.max(stamp);
        }
    }

    /// The directory whose junction led to a volume's root.
    pub(crate) fn above(&self, node: NodeId) -> Option<NodeId> {
        self.inner.lock().nodes.get(&node.0)?.above
    }

    /// Now, to be taken before a question is asked.
    pub(crate) fn now(&self) -> Tick {
        Tick(self.inner.lock().now)
    }

    /// An inode was changed through this mount.
    pub(crate) fn changed(&self, node: NodeId) {
        self.stamp(node, |found, now| {
            found.changed = now;
            found.dir = None;
        });
    }

    /// Names in a directory were changed through this mount, and so was it.
    pub(crate) fn renamed(&self, node: NodeId) {
        self.stamp(node, |found, now| {
            found.changed = now;
            found.renamed = now;
            found.dir = None;
        });
    }

    /// A name of `child` was made in (or with `gone` removed from) a directory through this mount. What that does to
    /// the directory's attributes is known: a program that makes many files costs no question for each.
    pub(crate) fn entry_changed(&self, node: NodeId, child: &Attr, gone: bool) {
        self.stamp(node, |found, now| {
            found.changed = now;
            found.renamed = now;
            if let Some((dir, _)) = &mut found.dir {
                let links = u32::from(child.kind == Kind::Directory);
                if gone {
                    dir.size = dir.size.saturating_sub(1);
                    dir.nlink = dir.nlink.saturating_sub(links);
                } else {
                    dir.size += 1;
                    dir.nlink += links;
                }
                dir.version += 1;
                // The child's last change is the entry's time, which the directory gets too.
                dir.mtime = dir.mtime.max(child.ctime);
                dir.ctime = dir.ctime.max(child.ctime);
            }
        });
    }

    /// A name moved from one directory to another or within one through this mount, over `replaced` if that is there.
    pub(crate) fn entry_moved(&self, from: NodeId, to: NodeId, moved: &Attr, replaced: Option<&Attr>) {
        self.entry_changed(from, moved, true);
        if let Some(replaced) = replaced {
            self.entry_changed(to, replaced, true);
        }
        self.entry_changed(to, moved, false);
    }

    /// Remembers a directory's attributes, asked for at `at`, unless it was changed through this mount since.
    pub(crate) fn learn_dir(&self, node: NodeId, attr: &Attr, asked: Tick, at: Instant) {
        if attr.kind != Kind::Directory {
            return;
        }
        let mut inner = self.inner.lock();
        if let Some(found) = inner.nodes.get_mut(&node.0)
            && found.changed <= asked.0
            && found.dir.as_ref().is_none_or(|(_, known)| *known <= at)
        {
            found.dir = Some((attr.clone(), at));
        }
    }

    /// A directory's attributes, with this mount's changes, and since when nobody else's are in them.
    pub(crate) fn dir(&self, node: NodeId) -> Option<(Attr, Instant)> {
        self.inner.lock().nodes.get(&node.0)?.dir.clone()
    }

    fn stamp(&self, node: NodeId, set: impl FnOnce(&mut Node<V>, u64)) {
        let mut inner = self.inner.lock();
        inner.now += 1;
        let now = inner.now;
        match inner.nodes.get_mut(&node.0) {
            Some(found) => set(found, now),
            // Not known to the kernel: only an answer under way can hold something older.
            None => inner.forgotten = now,
        }
    }

    /// Whether an inode is unchanged since `tick`, so that an answer asked for then is still true of it.
    pub(crate) fn unchanged_since(&self, node: NodeId, tick: Tick) -> bool {
        let inner = self.inner.lock();
        inner.nodes.get(&node.0).map_or(inner.forgotten, |found| found.changed) <= tick.0
    }

    /// The same of the names in a directory.
    pub(crate) fn names_unchanged_since(&self, node: NodeId, tick: Tick) -> bool {
        let inner = self.inner.lock();
        inner.nodes.get(&node.0).map_or(inner.forgotten, |found| found.renamed) <= tick.0
    }

    /// Answers of this mount were lost, and versions that it gave stand for other contents now: the kernel has nothing
    /// that is known to be right. `losses` counts them; nothing happens where that is known already.
    pub(crate) fn distrust(&self, losses: u64) {
        let mut inner = self.inner.lock();
        if inner.losses == losses {
            return;
        }
        inner.losses = losses;
        for node in inner.nodes.values_mut() {
            node.told = None;
            // No version: pages are dropped before the kernel is told anything.
            node.cached = node.cached.map(|_| u64::MAX);
            node.dir = None;
        }
    }

    /// Compares a file's content version with what the kernel has.
    pub(crate) fn known(&self, node: NodeId, version: u64) -> Known {
        let inner = self.inner.lock();
        let Some(found) = inner.nodes.get(&node.0) else { return Known { attributes: false, pages: true } };
        Known { attributes: found.told == Some(version), pages: found.cached.is_none_or(|cached| cached == version) }
    }

    /// The kernel is being told attributes of this version.
    pub(crate) fn told(&self, node: NodeId, version: u64) {
        if let Some(found) = self.inner.lock().nodes.get_mut(&node.0) {
            found.told = Some(version);
        }
    }

    /// From now on the kernel may hold pages of this version, and of no other.
    pub(crate) fn cached(&self, node: NodeId, version: u64) {
        if let Some(found) = self.inner.lock().nodes.get_mut(&node.0) {
            found.cached = Some(version);
        }
    }

    /// The content is of this version now, and every change since `ours_since` was made through this mount, so that the
    /// kernel has seen it happen: what it has of a version from there on is right.
    pub(crate) fn own_changes(&self, node: NodeId, ours_since: u64, version: u64) {
        if let Some(found) = self.inner.lock().nodes.get_mut(&node.0) {
            for known in [&mut found.told, &mut found.cached].into_iter().flatten() {
                if (ours_since..version).contains(known) {
                    *known = version;
                }
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.inner.lock().nodes.len()
    }
}

/// The `st_ino` of an inode: unique over all volumes of a site.
pub(crate) fn st_ino(view: ViewId, ino: Ino) -> u64 {
    (u64::from(view.0) << INO_BITS) | (ino.0 & Ino::MAX.0)
}

/// A number for a junction that can't be followed at the moment. No table holds it: every question about it is answered
/// with ESTALE, which makes the kernel look the name up again.
pub(crate) fn broken_junction(slot: u64) -> u64 {
    (BROKEN_VIEW << INO_BITS) | (slot & Ino::MAX.0)
}

#[cfg(test)]
mod tests {
    use weft_core::ids::VolumeId;
    use weft_core::time::Timestamp;

    use super::*;

    fn table() -> InodeTable<&'static str> {
        InodeTable::new("root", ViewId(1))
    }

    fn place(ino: u64) -> Place<&'static str> {
        Place { volume: "root", ino: Ino(ino) }
    }

    #[test]
    fn numbers_are_joined_from_view_and_inode() {
        let table = table();
        assert_eq!(table.node(ViewId(1), Ino::ROOT), NodeId::ROOT);
        assert_eq!(table.node(ViewId(1), Ino(2)), NodeId((1 << 40) | 2));
        assert_eq!(table.node(ViewId(2), Ino::ROOT), NodeId((2 << 40) | 1));
        assert_eq!(st_ino(ViewId(0xFF_FFFF), Ino::MAX), u64::MAX);
    }

    #[test]
    fn a_node_stays_until_its_last_lookup_is_forgotten() {
        let table = table();
        let node = table.node(ViewId(1), Ino(7));
        table.looked_up(node, &place(7), None);
        table.looked_up(node, &place(7), None);
        table.forget(node, 1);
        assert_eq!(table.place(node), Some(place(7)));
        table.forget(node, 1);
        assert_eq!(table.place(node), None);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn the_root_is_never_forgotten_and_odd_counts_do_no_harm() {
        let table = table();
        table.forget(NodeId::ROOT, 5);
        table.forget(NodeId(99), 5);
        let node = table.node(ViewId(1), Ino(7));
        table.looked_up(node, &place(7), None);
        table.forget(node, 9);
        assert_eq!(table.place(NodeId::ROOT), Some(place(1)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_answer_asked_for_before_a_change_is_not_believed() {
        let table = table();
        let node = table.node(ViewId(1), Ino(7));
        table.looked_up(node, &place(7), None);
        let before = table.now();
        assert!(table.unchanged_since(node, before));
        table.changed(node);
        assert!(!table.unchanged_since(node, before));
        assert!(table.unchanged_since(NodeId::ROOT, before));
        assert!(table.unchanged_since(node, table.now()));
    }

    #[test]
    fn a_change_is_remembered_after_its_node_is_forgotten() {
        let table = table();
        let node = table.node(ViewId(1), Ino(7));
        table.looked_up(node, &place(7), None);
        let before = table.now();
        table.changed(node);
        table.forget(node, 1);
        assert!(!table.unchanged_since(node, before));
        let again = table.now();
        table.changed(node);
        assert!(!table.unchanged_since(node, again));
    }

    #[test]
    fn names_and_attributes_are_told_apart() {
        let table = table();
        let before = table.now();
        table.changed(NodeId::ROOT);
        assert!(table.names_unchanged_since(NodeId::ROOT, before));
        table.renamed(NodeId::ROOT);
        assert!(!table.names_unchanged_since(NodeId::ROOT, before));
    }

    #[tokio::test]
    async fn a_directory_is_known_with_this_mounts_changes() {
        let table = table();
        let attr = |kind, ino, secs| Attr {
            volume: VolumeId(1),
            ino: Ino(ino),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            size: 5,
            allocated: 0,
            rdev: 0,
            atime: Timestamp::default(),
            mtime: Timestamp { secs, nanos: 0 },
            ctime: Timestamp { secs, nanos: 0 },
            btime: Timestamp::default(),
            generation: 0,
            version: 1,
            parent: Ino::ROOT,
            acl: None,
            default_acl: None,
        };
        let (asked, at) = (table.now(), Instant::now());
        table.learn_dir(NodeId::ROOT, &attr(Kind::Directory, 1, 10), asked, at);
        table.entry_changed(NodeId::ROOT, &attr(Kind::Directory, 2, 11), false);
        table.entry_changed(NodeId::ROOT, &attr(Kind::File, 3, 12), false);
        table.entry_changed(NodeId::ROOT, &attr(Kind::File, 3, 13), true);
        let (known, since) = table.dir(NodeId::ROOT).unwrap();
        assert_eq!((known.nlink, known.size, known.mtime.secs, known.version, since), (3, 6, 13, 4, at));
        // Over a file, within the directory: one name less, and the time of it.
        table.entry_moved(NodeId::ROOT, NodeId::ROOT, &attr(Kind::File, 4, 14), Some(&attr(Kind::File, 5, 14)));
        let (known, _) = table.dir(NodeId::ROOT).unwrap();
        assert_eq!((known.nlink, known.size, known.mtime.secs), (3, 5, 14));
        // A directory into another one that is not known here, and back.
        let other = table.node(ViewId(1), Ino(9));
        table.entry_moved(NodeId::ROOT, other, &attr(Kind::Directory, 2, 15), None);
        let (known, _) = table.dir(NodeId::ROOT).unwrap();
        assert_eq!((known.nlink, known.size, known.mtime.secs), (2, 4, 15));
        table.entry_moved(other, NodeId::ROOT, &attr(Kind::Directory, 2, 16), None);
        let (known, _) = table.dir(NodeId::ROOT).unwrap();
        assert_eq!((known.nlink, known.size, known.mtime.secs), (3, 5, 16));
        // An answer asked for before those changes is older.
        table.learn_dir(NodeId::ROOT, &attr(Kind::Directory, 1, 10), asked, Instant::now());
        assert_eq!(table.dir(NodeId::ROOT).unwrap().0.size, 5);
        table.changed(NodeId::ROOT);
        assert!(table.dir(NodeId::ROOT).is_none());
    }

    #[test]
    fn what_the_kernel_has_is_right_only_for_its_version() {
        let table = table();
        let node = table.node(ViewId(1), Ino(7));
        table.looked_up(node, &place(7), None);
        assert_eq!(table.known(node, 3), Known { attributes: false, pages: true });
        table.told(node, 3);
        table.cached(node, 3);
        assert_eq!(table.known(node, 3), Known { attributes: true, pages: true });
        assert_eq!(table.known(node, 4), Known { attributes: false, pages: false });
    }

    #[test]
    fn own_changes_keep_the_kernels_caches_and_others_do_not() {
        let table = table();
        let node = table.node(ViewId(1), Ino(7));
        table.looked_up(node, &place(7), None);
        table.told(node, 3);
        table.cached(node, 2);
        table.own_changes(node, 3, 5);
        assert_eq!(table.known(node, 5), Known { attributes: true, pages: false });
        table.cached(node, 5);
        // Version 6 was somebody else's.
        table.own_changes(node, 6, 7);
        assert_eq!(table.known(node, 7), Known { attributes: false, pages: false });
    }

    #[test]
    fn a_volume_root_remembers_the_junction_above_it() {
        let table = table();
        let dir = table.node(ViewId(1), Ino(7));
        let other = table.node(ViewId(2), Ino::ROOT);
        table.looked_up(other, &Place { volume: "other", ino: Ino::ROOT }, Some(dir));
        table.looked_up(other, &Place { volume: "other", ino: Ino::ROOT }, None);
        assert_eq!(table.above(other), Some(dir));
        assert_eq!(table.above(NodeId::ROOT), None);
    }
}
