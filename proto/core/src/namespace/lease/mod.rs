//! Write leases: the right of one session to change a directory, and all that it makes below it, on its own, and to
//! send the changes later in batches.
//!
//! A lease is a record, so that every leader knows it. It is given on an empty directory only: whatever comes to be
//! below was made by the holder, and nobody else can reach it without passing the leased directory, where every request
//! of others is refused as [`Refusal::Leased`]. The leader then recalls the lease and tries again ([`guard`] is asked
//! both by operations and by questions). What a holder knows and changes on its own is [`Local`]; it runs the very
//! operations that the group runs later, with inode numbers reserved with the lease, so that both come to the same.

mod local;

use std::ops::ControlFlow;

pub use self::local::{Local, Tried, Way};
use crate::codec::{self, Head, Lease};
use crate::entry::Cred;
use crate::ids::{ClientId, Ino, SpaceId, VolumeId};
use crate::keys;
use crate::limits::{MAX_CHANGES, MAX_CUT_NOW};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Inode, Kind};
use crate::namespace::op::Op;
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::{HeldTx, Tx, within_quota};
use crate::namespace::{ops, records};
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::view::{Changes, Overlay, View, ViewError};

/// Records that any operation but a truncation or a commit changes at the most, with room to spare.
const USUAL_CHANGES: usize = 64;

/// A change made under a write lease and held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The leased directory.
    pub root: Ino,
    /// The number that the inode which it makes has already.
    pub new_ino: Option<Ino>,
    /// When it was made, by the group's time as its client knew it. Applying uses the entry's if that is earlier.
    pub time: Timestamp,
    /// On whose behalf.
    pub cred: Cred,
    /// The change; one of those that [`may_hold`].
    pub op: Op,
}

/// A lease, as the leader needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// In which volume.
    pub volume: VolumeId,
    /// The directory.
    pub dir: Ino,
    /// Who holds it.
    pub client: ClientId,
    /// The session's space.
    pub space: SpaceId,
}

/// Whether an operation may be held back at all.
pub fn may_hold(op: &Op) -> bool {
    match op {
        Op::Mkdir { .. }
        | Op::Create { .. }
        | Op::Mknod { .. }
        | Op::Symlink { .. }
        | Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename { .. }
        | Op::Setattr { .. }
        | Op::Truncate { .. }
        | Op::Commit(_)
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. } => true,
        Op::Allocate { .. }
        | Op::Tmpfile { .. }
        | Op::CopyRange { .. }
        | Op::MakeJunction { .. }
        | Op::RemoveJunction { .. }
        | Op::Lease { .. }
        | Op::Held { .. } => false,
    }
}

/// The lease on a directory.
///
/// # Errors
/// The store failed.
pub fn lease_of(view: &dyn View, volume: VolumeId, dir: Ino) -> Result<Option<LeaseInfo>, ViewError> {
    let lease: Option<Lease> = records::get(view, &keys::lease(volume, dir))?;
    Ok(lease.map(|Lease { client, space }| LeaseInfo { volume, dir, client, space }))
}

/// All leases of the group.
///
/// # Errors
/// The store failed.
pub fn lease_list(view: &dyn View) -> Result<Vec<LeaseInfo>, ViewError> {
    let mut found = Vec::new();
    records::scan(view, keys::leases(), |key, value| {
        let (volume, dir) = keys::two_ids(key).map_err(|err| records::damaged(key, &err))?;
        let Lease { client, space } = codec::decode(value).map_err(|err| records::damaged(key, &err))?;
        found.push(LeaseInfo { volume: VolumeId(volume), dir: Ino(dir), client, space });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Refuses a directory that is leased to anybody but `except`.
pub(crate) fn guard(
    view: &dyn View,
    volume: VolumeId,
    ino: Ino,
    inode: &Inode,
    except: Option<ClientId>,
) -> Result<(), Fail> {
    if inode.kind != Kind::Directory {
        return Ok(());
    }
    match lease_of(view, volume, ino)? {
        Some(lease) if Some(lease.client) != except => Err(Refusal::Leased { volume, dir: ino }.into()),
        _ => Ok(()),
    }
}

/// Whether a client holds the lease on a directory.
pub(crate) fn holds(view: &dyn View, volume: VolumeId, dir: Ino, client: ClientId) -> Result<bool, ViewError> {
    Ok(lease_of(view, volume, dir)?.is_some_and(|lease| lease.client == client))
}

/// Takes a lease from a client.
pub(crate) fn revoke(out: &mut Overlay<'_>, volume: VolumeId, dir: Ino, client: ClientId) -> Result<Outcome, Fail> {
    if holds(out, volume, dir, client)? {
        out.remove(keys::lease(volume, dir));
    }
    Ok(Outcome::Done)
}

/// Takes all leases of a session.
pub(crate) fn end_of(out: &mut Overlay<'_>, client: ClientId, space: SpaceId) -> Result<(), ViewError> {
    let held = lease_list(out)?;
    for lease in held.iter().filter(|lease| lease.client == client && lease.space == space) {
        out.remove(keys::lease(lease.volume, lease.dir));
    }
    Ok(())
}

/// Takes inode numbers of a volume; the first of them.
pub(crate) fn take_numbers(head: &mut Head, count: u32) -> Result<Ino, Refusal> {
    let first = head.next_ino;
    let end = first.0 + u64::from(count);
    if end - 1 > Ino::MAX.0 {
        return Err(Refusal::NoSpace { why: "all inode numbers of the volume are used up".into() });
    }
    head.next_ino = Ino(end);
    Ok(first)
}

/// Checks the number that a held-back change's new inode has: reserved, and not used before.
pub(crate) fn reserved(view: &dyn View, volume: VolumeId, head: &Head, ino: Option<Ino>) -> Result<Ino, Fail> {
    match ino {
        Some(ino) if ino < head.next_ino && records::inode_if(view, volume, ino)?.is_none() => Ok(ino),
        _ => Err(Refusal::Invalid { why: "the number of a new inode was not reserved, or is taken".into() }.into()),
    }
}

/// What a held-back change came to.
pub(crate) struct Made {
    pub(crate) outcome: Outcome,
    pub(crate) changes: Changes,
    pub(crate) head: Head,
}

/// Where a held-back change is made.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) view: &'a dyn View,
    pub(crate) volume: VolumeId,
    pub(crate) head: &'a Head,
    /// Whose it is.
    pub(crate) client: ClientId,
    /// Records that the changes before it in the same entry change.
    pub(crate) used: usize,
}

impl Place<'_> {
    /// In the group, under a lease that is still there.
    pub(crate) fn make(self, now: Timestamp, item: &Held) -> Result<Made, Fail> {
        if !holds(self.view, self.volume, item.root, self.client)? {
            return Err(Refusal::NoLease { dir: item.root }.into());
        }
        let made = self.run(now.min(item.time), item)?;
        within_quota(self.head, &made.head)?;
        Ok(made)
    }

    /// The same wherever it runs: at the holder, and later in the group.
    fn run(self, now: Timestamp, item: &Held) -> Result<Made, Fail> {
        if !may_hold(&item.op) {
            return Err(Refusal::Unsupported { what: "holding this change back".into() }.into());
        }
        let most = match &item.op {
            Op::Truncate { .. } => USUAL_CHANGES + 3 * MAX_CUT_NOW,
            _ => USUAL_CHANGES,
        };
        let mut tx = Tx {
            out: Overlay::new(self.view),
            now,
            cred: &item.cred,
            client: Some(self.client),
            volume: self.volume,
            head: self.head.clone(),
            held: Some(HeldTx { new_ino: item.new_ino, used: self.used }),
        };
        if tx.room() < most {
            let (size, limit) = (self.used as u64, MAX_CHANGES as u64);
            return Err(Refusal::TooLarge { what: "the list of changes".into(), size, limit }.into());
        }
        let outcome = ops::run(&mut tx, &item.op)?;
        Ok(Made { outcome, head: tx.head.clone(), changes: tx.out.into_changes() })
    }
}
