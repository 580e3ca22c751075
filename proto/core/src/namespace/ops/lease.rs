//! Takes write leases, makes what was held back under them, gives them up.

use std::ops::ControlFlow;

use crate::codec::{self, Lease};
use crate::ids::Ino;
use crate::keys;
use crate::limits::{MAX_HELD, MAX_LEASE_NUMBERS, MAX_LEASES};
use crate::namespace::fail::Fail;
use crate::namespace::inode::Kind;
use crate::namespace::lease::{self, Held, Place};
use crate::namespace::outcome::Outcome;
use crate::namespace::records;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

/// Only an empty directory can be leased, so that there is no inode below it that somebody knows already and could
/// reach without passing it. Volumes with limits are not leased in: what was held back might not fit.
pub(super) fn take(tx: &mut Tx<'_>, dir: Ino, numbers: u32) -> Result<Outcome, Fail> {
    let Some(client) = tx.client else {
        return Err(Refusal::Unsupported { what: "a lease outside a session".into() }.into());
    };
    let inode = records::inode(&tx.out, tx.volume, dir)?;
    let key = keys::lease(tx.volume, dir);
    match records::get::<Lease>(&tx.out, &key)? {
        Some(held) if held.client == client => {}
        Some(_) => return Err(Refusal::Leased { volume: tx.volume, dir }.into()),
        None => {
            let leasable = inode.kind == Kind::Directory && inode.nlink > 0 && inode.size == 0 && dir != Ino::ROOT;
            if !leasable || inode.xattr_list > 0 || tx.head.max_bytes > 0 || tx.head.max_inodes > 0 {
                let what = "a lease on what is not a new directory, or in a volume with limits";
                return Err(Refusal::Unsupported { what: what.into() }.into());
            }
            if leases_of(tx, client)? >= MAX_LEASES {
                return Err(Refusal::Unsupported { what: "more leases".into() }.into());
            }
            tx.out.put(key, codec::encode(&Lease { client, space: tx.head.space }));
        }
    }
    let first = lease::take_numbers(&mut tx.head, numbers.clamp(1, MAX_LEASE_NUMBERS))?;
    Ok(Outcome::Leased { first, dir: tx.attr(dir, &inode), now: tx.now })
}

fn leases_of(tx: &Tx<'_>, client: crate::ids::ClientId) -> Result<usize, Fail> {
    let mut count = 0;
    records::scan(&tx.out, keys::leases(), |key, value| {
        let lease: Lease = codec::decode(value).map_err(|err| records::damaged(key, &err))?;
        count += usize::from(lease.client == client);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// Each change as if it had come alone. One that is refused leaves the others as they are: that happens only where a
/// lease was lost, and there to all that came under it.
pub(super) fn make(tx: &mut Tx<'_>, items: &[Held], give_up: &[Ino]) -> Result<Outcome, Fail> {
    let Some(client) = tx.client else {
        return Err(Refusal::Unsupported { what: "held-back changes outside a session".into() }.into());
    };
    if items.len() > MAX_HELD || give_up.len() > MAX_LEASES {
        let size = items.len().max(give_up.len()) as u64;
        return Err(Refusal::TooLarge { what: "the list of changes".into(), size, limit: MAX_HELD as u64 }.into());
    }
    let mut refused = Vec::new();
    for (at, item) in items.iter().enumerate() {
        // The ends of the leases change records, too.
        let used = tx.out.changed() + give_up.len();
        let here = Place { view: &tx.out, volume: tx.volume, head: &tx.head, client, used };
        match here.make(tx.now, item) {
            Ok(made) => {
                tx.out.absorb(made.changes);
                tx.head = made.head;
            }
            Err(Fail::Refused(refusal) | Fail::Unfinished(refusal)) => refused.push((at as u32, refusal)),
            Err(Fail::View(err)) => return Err(Fail::View(err)),
        }
    }
    for dir in give_up {
        if lease::holds(&tx.out, tx.volume, *dir, client)? {
            tx.out.remove(keys::lease(tx.volume, *dir));
        }
    }
    Ok(Outcome::Held { refused })
}
