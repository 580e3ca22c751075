//! Who asks, as a verified certificate says, and for whom that credential may speak.
//!
//! What always holds: a request of a user acts as a uid, and with groups, that the user's credential lists; the superuser
//! of a client is nobody unless the credential lists uid 0.

use std::fmt;
use std::str::FromStr;

use crate::entry::Cred;
use crate::ids::{PrincipalId, TenantId};
use crate::refusal::Refusal;

/// The user and the group without rights of their own.
pub const NOBODY: u32 = 65_534;
/// The role that may change the site: volumes, nodes, users.
pub const ADMIN: &str = "admin";
/// Letters of a name of a user, a group or a role at the most.
pub const MAX_WORD: usize = 64;
/// Groups, roles or ranges of numbers in one credential at the most.
pub const MAX_LIST: usize = 64;

/// A user of the site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// Its number, never used again.
    pub id: PrincipalId,
    /// What people call it.
    pub name: String,
    /// Whose volumes it sees; 0: those of all.
    pub tenant: TenantId,
    /// Groups of people, for expressions.
    pub groups: Vec<String>,
    /// Roles; [`ADMIN`] may change the site.
    pub roles: Vec<String>,
    /// User ids it may speak for.
    pub uids: IdRanges,
    /// Group ids it may speak for.
    pub gids: IdRanges,
}

impl Principal {
    /// Whether it may change the site.
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == ADMIN)
    }

    /// Whether it sees volumes of a tenant: those of its own and those of the site itself; a principal of the site sees all.
    pub fn sees(&self, tenant: TenantId) -> bool {
        self.tenant.0 == 0 || tenant.0 == 0 || self.tenant == tenant
    }

    /// What becomes of credentials that a client of this user sends. Groups that it may not speak for are left out; the
    /// superuser, where it may not speak for uid 0, is nobody.
    ///
    /// # Errors
    /// [`Refusal::Denied`]: it may not speak for that uid.
    pub fn speak(&self, said: &Cred) -> Result<Cred, Refusal> {
        let gid = if self.gids.contains(said.gid) { said.gid } else { NOBODY };
        let mut cred = Cred {
            uid: said.uid,
            gid,
            gids: said.gids.iter().copied().filter(|gid| self.gids.contains(*gid)).collect(),
            pid: said.pid,
            umask: said.umask,
            principal: self.id,
            tenant: self.tenant,
        };
        if self.uids.contains(said.uid) {
            return Ok(cred);
        }
        if said.uid != 0 {
            return Err(Refusal::Denied);
        }
        (cred.uid, cred.gid, cred.gids) = (NOBODY, NOBODY, Vec::new());
        Ok(cred)
    }

    /// Whether what it is made of may stand in a certificate.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] or [`Refusal::TooLarge`].
    pub fn check(&self) -> Result<(), Refusal> {
        for word in [&self.name].into_iter().chain(&self.groups).chain(&self.roles) {
            check_word(word)?;
        }
        for (what, size) in [
            ("the list of groups", self.groups.len()),
            ("the list of roles", self.roles.len()),
            ("the list of uids", self.uids.0.len()),
            ("the list of gids", self.gids.0.len()),
        ] {
            if size > MAX_LIST {
                return Err(Refusal::TooLarge { what: what.into(), size: size as u64, limit: MAX_LIST as u64 });
            }
        }
        Ok(())
    }
}

/// A name is one word of plain letters, digits, `.`, `_` and `-`.
fn check_word(word: &str) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if word.is_empty() || word.len() > MAX_WORD || !word.chars().all(plain) {
        let why = format!("{word:?} is not a name: 1 to {MAX_WORD} letters, digits, `.`, `_` or `-`");
        return Err(Refusal::Invalid { why });
    }
    Ok(())
}

/// Sets of user or group ids, as text `0,1000-1999`; `*` is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRanges(pub Vec<(u32, u32)>);

impl IdRanges {
    /// All ids.
    pub fn all() -> IdRanges {
        IdRanges(vec![(0, u32::MAX)])
    }

    /// Whether an id is among them.
    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&id))
    }
}

impl fmt::Display for IdRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match (*first, *last) {
                (0, u32::MAX) => write!(f, "{comma}*")?,
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for IdRanges {
    type Err = String;

    fn from_str(text: &str) -> Result<IdRanges, String> {
        let bad = |part: &str| format!("{part:?} is not an id or a range of ids, such as 1000 or 1000-1999");
        let id = |text: &str, part: &str| text.parse::<u32>().map_err(|_| bad(part));
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = match part.split_once('-') {
                _ if part == "*" => (0, u32::MAX),
                Some((first, last)) => (id(first, part)?, id(last, part)?),
                None => (id(part, part)?, id(part, part)?),
            };
            if first > last {
                return Err(bad(part));
            }
            ranges.push((first, last));
        }
        Ok(IdRanges(ranges))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn anna() -> Principal {
        Principal {
            id: PrincipalId(5),
            name: "anna".into(),
            tenant: TenantId(2),
            uids: "1000,2000-2010".parse().unwrap(),
            gids: "100".parse().unwrap(),
            ..Principal::default()
        }
    }

    fn said(uid: u32, gid: u32, gids: &[u32]) -> Cred {
        Cred { uid, gid, gids: gids.to_vec(), pid: 7, umask: 0o22, principal: PrincipalId(99), tenant: TenantId(99) }
    }

    #[test]
    fn a_credential_speaks_for_the_ids_it_lists_and_for_nobody_else() {
        let cred = anna().speak(&said(2005, 100, &[27, 100])).unwrap();
        assert_eq!((cred.uid, cred.gid, &cred.gids[..], cred.pid), (2005, 100, &[100][..], 7));
        assert_eq!(
            (cred.principal, cred.tenant),
            (PrincipalId(5), TenantId(2)),
            "who it is is not the client's to say"
        );
        assert_eq!(anna().speak(&said(1000, 27, &[27])).unwrap().gid, NOBODY);
        assert_eq!(anna().speak(&said(1001, 100, &[])), Err(Refusal::Denied));
    }

    #[test]
    fn the_superuser_of_a_client_is_nobody_unless_the_credential_says_so() {
        let cred = anna().speak(&said(0, 0, &[100])).unwrap();
        assert_eq!((cred.uid, cred.gid, cred.gids.len()), (NOBODY, NOBODY, 0));
        let root = Principal { uids: IdRanges::all(), gids: IdRanges::all(), ..anna() };
        assert_eq!(root.speak(&said(0, 0, &[])).unwrap().uid, 0);
    }

    #[test]
    fn a_tenant_sees_its_own_volumes_and_those_of_the_site() {
        let sees = |tenant| anna().sees(TenantId(tenant));
        assert!(sees(2) && sees(0) && !sees(3));
        assert!(Principal::default().sees(TenantId(3)));
    }

    #[test]
    fn names_that_would_not_stand_in_a_certificate_are_refused() {
        assert_eq!(anna().check(), Ok(()));
        for bad in ["", "a b", "a/b", "a,b", "ä", &"x".repeat(65)] {
            assert!(Principal { name: bad.into(), ..anna() }.check().is_err(), "{bad:?}");
            assert!(Principal { roles: vec![bad.into()], ..anna() }.check().is_err(), "{bad:?}");
        }
        assert!(Principal { groups: vec!["g".into(); 65], ..anna() }.check().is_err());
    }

    proptest! {
        #[test]
        fn ranges_come_back_from_their_text(pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 0..8)) {
            let ranges = IdRanges(pairs.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect());
            prop_assert_eq!(ranges.to_string().parse::<IdRanges>(), Ok(ranges));
        }

        #[test]
        fn whatever_is_said_is_spoken_for_or_refused(uid: u32, gid: u32, gids in prop::collection::vec(any::<u32>(), 0..5)) {
            if let Ok(cred) = anna().speak(&said(uid, gid, &gids)) {
                prop_assert!(anna().uids.contains(cred.uid) || cred.uid == NOBODY);
                prop_assert!(anna().gids.contains(cred.gid) || cred.gid == NOBODY);
                prop_assert!(cred.gids.iter().all(|gid| anna().gids.contains(*gid)));
            }
        }
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        for bad in ["x", "1-", "-1", "5-4", "1000-x", "4294967296"] {
            assert!(bad.parse::<IdRanges>().is_err(), "{bad}");
        }
    }
}
