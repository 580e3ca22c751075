//! Makes and removes junctions: names that stand for the root of the volume in a slot.

use crate::ids::Ino;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, SlotRef};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

/// Whether the slot is there can't be asked: it may be another group's.
pub(super) fn make(tx: &mut Tx<'_>, parent: Ino, name: &Name, slot: SlotRef) -> Result<Outcome, Fail> {
    superuser(tx)?;
    tx.vacancy(parent, name)?;
    tx.add_name(parent, name, Dirent::Junction(slot))?;
    Ok(Outcome::Done)
}

pub(super) fn remove(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> Result<Outcome, Fail> {
    superuser(tx)?;
    let dir = tx.directory(parent)?;
    match tx.look(parent, &dir, name)? {
        None => Err(Refusal::NoEntry.into()),
        Some(Dirent::Inode { .. }) => Err(Refusal::Invalid { why: "not a junction".into() }.into()),
        Some(junction) => {
            tx.remove_name(parent, name, junction)?;
            Ok(Outcome::Done)
        }
    }
}

fn superuser(tx: &Tx<'_>) -> Result<(), Refusal> {
    if tx.cred.uid == 0 { Ok(()) } else { Err(Refusal::NotPermitted) }
}
