//! POSIX access lists, as acl(5) describes them and Linux reads them: who beside owner, group and others may do what.
//!
//! An inode has an *access list* only where its mode bits do not say the same; its mode then shows the mask as the
//! group's bits. A directory may have a *default list* too, which what is made in it inherits.

use bytes::{BufMut, Bytes, BytesMut};

use super::in_group;
use crate::entry::Cred;
use crate::limits::MAX_ACL;

/// The version of the extended attribute's value.
const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about. The order is that of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The owner.
    Owner,
    /// This user.
    User(u32),
    /// The owning group.
    OwningGroup,
    /// This group.
    Group(u32),
    /// The most that named users, groups and the owning group may do.
    Mask,
    /// Everybody else.
    Others,
}

/// A list: sorted, each [`Who`] once, with owner, owning group and others, and a mask where anybody is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<(Who, u8)>);

impl Acl {
    /// The list in the value of `system.posix_acl_access` or `_default`. `None`: it breaks a rule of lists, or has more
    /// than [`MAX_ACL`] entries. A value without entries is no list and not asked for here.
    pub fn parse(value: &[u8]) -> Option<Acl> {
        let (version, rest) = value.split_first_chunk::<4>()?;
        let (entries, left) = rest.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !left.is_empty() || entries.len() > MAX_ACL {
            return None;
        }
        let mut list = entries
            .iter()
            .map(|[t0, t1, r0, r1, id @ ..]| {
                let (tag, id) = (u16::from_le_bytes([*t0, *t1]), u32::from_le_bytes(*id));
                let rights = u8::try_from(u16::from_le_bytes([*r0, *r1])).ok().filter(|rights| *rights <= 7)?;
                Some((who(tag, id)?, rights))
            })
            .collect::<Option<Vec<_>>>()?;
        list.sort_unstable();
        let acl = Acl(list);
        acl.is_valid().then_some(acl)
    }

    /// The value of the extended attribute.
    pub fn to_value(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(4 + 8 * self.0.len());
        out.put_u32_le(VERSION);
        for (who, rights) in &self.0 {
            let (tag, id) = tag(*who);
            out.put_u16_le(tag);
            out.put_u16_le(u16::from(*rights));
            out.put_u32_le(id);
        }
        out.freeze()
    }

    fn is_valid(&self) -> bool {
        let once = self.0.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let base = [Who::Owner, Who::OwningGroup, Who::Others].iter().all(|who| self.rights(*who).is_some());
        once && base && (!self.names_anybody() || self.rights(Who::Mask).is_some())
    }

    fn names_anybody(&self) -> bool {
        self.0.iter().any(|(who, _)| matches!(who, Who::User(_) | Who::Group(_)))
    }

    fn rights(&self, wanted: Who) -> Option<u8> {
        self.0.iter().find(|(who, _)| *who == wanted).map(|(_, rights)| *rights)
    }

    /// The permission bits that a mode shows for it: those of the group are the mask, where there is one.
    pub fn mode(&self) -> u16 {
        let of = |who| u16::from(self.rights(who).unwrap_or(0));
        let group = self.rights(Who::Mask).or(self.rights(Who::OwningGroup)).unwrap_or(0);
        of(Who::Owner) << 6 | u16::from(group) << 3 | of(Who::Others)
    }

    /// Whether mode bits alone say the same.
    pub fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// After chmod: owner, mask (the owning group where there is none) and others get the mode's bits.
    pub fn with_mode(mut self, mode: u16) -> Acl {
        let group = if self.rights(Who::Mask).is_some() { Who::Mask } else { Who::OwningGroup };
        for (who, rights) in &mut self.0 {
            if *who == Who::Owner {
                *rights = (mode >> 6 & 7) as u8;
            } else if *who == group {
                *rights = (mode >> 3 & 7) as u8;
            } else if *who == Who::Others {
                *rights = (mode & 7) as u8;
            }
        }
        self
    }

    /// What a new inode gets that is made with `mode` in a directory with this default list: its mode, and its access
    /// list where the mode does not say all.
    pub fn inherited(&self, mode: u16) -> (u16, Option<Acl>) {
        let bits = mode & self.mode() & 0o777;
        let acl = self.clone().with_mode(bits);
        (mode & !0o777 | bits, (!acl.is_mode()).then_some(acl))
    }

    /// Rights of `mask` that it does not give to a caller who is not the owner: `Err` with those missing.
    pub(super) fn missing(&self, cred: &Cred, owning_group: u32, mask: u8) -> u8 {
        let most = self.rights(Who::Mask).unwrap_or(7);
        if let Some(rights) = self.rights(Who::User(cred.uid)) {
            return mask & !(rights & most);
        }
        let mine = |who: &Who| match who {
            Who::OwningGroup => in_group(cred, owning_group),
            Who::Group(gid) => in_group(cred, *gid),
            _ => false,
        };
        let groups = self.0.iter().filter(|(who, _)| mine(who)).map(|(_, rights)| mask & !(rights & most));
        // One group must give all of it; being in any that is named keeps a caller from being one of the others.
        groups.min_by_key(|missing| missing.count_ones()).unwrap_or(mask & !self.rights(Who::Others).unwrap_or(0))
    }
}

fn who(tag: u16, id: u32) -> Option<Who> {
    Some(match tag {
        0x01 => Who::Owner,
        0x02 if id != NOBODY => Who::User(id),
        0x04 => Who::OwningGroup,
        0x08 if id != NOBODY => Who::Group(id),
        0x10 => Who::Mask,
        0x20 => Who::Others,
        _ => return None,
    })
}

fn tag(who: Who) -> (u16, u32) {
    match who {
        Who::Owner => (0x01, NOBODY),
        Who::User(id) => (0x02, id),
        Who::OwningGroup => (0x04, NOBODY),
        Who::Group(id) => (0x08, id),
        Who::Mask => (0x10, NOBODY),
        Who::Others => (0x20, NOBODY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(Who, u8)]) -> Acl {
        let value = Acl(entries.to_vec()).to_value();
        Acl::parse(&value).expect("a good list")
    }

    fn cred(uid: u32, gid: u32) -> Cred {
        Cred { uid, gid, ..Cred::default() }
    }

    #[test]
    fn a_value_comes_back_and_a_bad_one_does_not() {
        let base = [(Who::Owner, 7), (Who::OwningGroup, 5), (Who::Others, 0)];
        let long = [(Who::Owner, 6), (Who::User(7), 6), (Who::OwningGroup, 4), (Who::Mask, 4), (Who::Others, 0)];
        for good in [&base[..], &long] {
            assert_eq!(list(good).0, good);
        }
        let bad: [&[(Who, u8)]; 4] = [
            &base[..2],
            &[(Who::Owner, 6), (Who::User(7), 6), (Who::OwningGroup, 4), (Who::Others, 0)],
            &[(Who::Owner, 6), (Who::Owner, 6), (Who::OwningGroup, 4), (Who::Others, 0)],
            &[(Who::Owner, 8), (Who::OwningGroup, 4), (Who::Others, 0)],
        ];
        for bad in bad {
            assert_eq!(Acl::parse(&Acl(bad.to_vec()).to_value()), None, "{bad:?}");
        }
        let value = list(&base).to_value();
        assert!((0..value.len()).all(|len| Acl::parse(&value[..len]).is_none()));
        let crowd: Vec<_> = (0..=MAX_ACL as u32).map(|uid| (Who::User(uid), 4)).collect();
        assert_eq!(Acl::parse(&Acl([&base[..], &[(Who::Mask, 7)], &crowd].concat()).to_value()), None);
    }

    #[test]
    fn mode_and_list_follow_each_other() {
        let acl = list(&[(Who::Owner, 6), (Who::User(7), 6), (Who::OwningGroup, 4), (Who::Mask, 5), (Who::Others, 1)]);
        assert_eq!(acl.mode(), 0o651);
        let changed = acl.with_mode(0o740);
        assert_eq!((changed.rights(Who::Mask), changed.rights(Who::OwningGroup)), (Some(4), Some(4)));
        assert_eq!(changed.mode(), 0o740);
        let base = list(&[(Who::Owner, 7), (Who::OwningGroup, 5), (Who::Others, 5)]);
        assert_eq!(base.inherited(0o2666), (0o2644, None), "the mode says it all");
        assert_eq!(changed.inherited(0o666).0, 0o640);
        assert!(changed.inherited(0o666).1.is_some());
    }

    #[test]
    fn the_first_entry_that_is_about_the_caller_decides() {
        let acl = list(&[
            (Who::Owner, 7),
            (Who::User(7), 6),
            (Who::OwningGroup, 4),
            (Who::Group(20), 2),
            (Who::Mask, 6),
            (Who::Others, 7),
        ]);
        assert_eq!(acl.missing(&cred(7, 10), 10, 6), 0, "the named user, not the group");
        assert_eq!(acl.missing(&cred(7, 10), 10, 1), 1, "not more than the mask");
        assert_eq!(acl.missing(&cred(8, 10), 10, 4), 0);
        assert_eq!(acl.missing(&cred(8, 20), 10, 2), 0);
        let both = Cred { gids: vec![20], ..cred(8, 10) };
        assert_eq!(acl.missing(&both, 10, 6).count_ones(), 1, "no one group gives both");
        assert_eq!(acl.missing(&cred(8, 20), 10, 1), 1, "a member is none of the others");
        assert_eq!(acl.missing(&cred(9, 9), 10, 7), 0);
    }
}
