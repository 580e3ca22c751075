//! Tokens let one folder in, names belong to one user, keys and authorities follow each other.

use std::collections::BTreeMap;

use super::*;

/// The records of a system group.
#[derive(Default)]
struct Records(BTreeMap<Bytes, Bytes>);

impl Records {
    fn apply(&mut self, secs: i64, command: TrustCommand) -> Result<TrustOutcome, Refusal> {
        let mut out = Overlay::new(&self.0);
        let done = apply(&mut out, Timestamp { secs, nanos: 0 }, &command);
        let changes = out.into_changes();
        let outcome = match done {
            Ok(outcome) => outcome,
            Err(Fail::Refused(refusal) | Fail::Unfinished(refusal)) => return Err(refusal),
            Err(Fail::View(error)) => panic!("{error}"),
        };
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
        Ok(outcome)
    }

    fn founded() -> Records {
        let mut records = Records::default();
        records.apply(100, found_by("ca")).unwrap();
        records
    }

    fn record(&self) -> TrustRecord {
        record(&self.0).unwrap().unwrap()
    }

    fn add(&mut self, name: &str) -> Result<User, Refusal> {
        let principal = Principal { name: name.into(), ..Principal::default() };
        match self.apply(100, TrustCommand::AddUser { principal, until: 500 })? {
            TrustOutcome::User(user) => Ok(user),
            TrustOutcome::Done => panic!("no user"),
        }
    }
}

fn authority(name: &str) -> Authority {
    let key = Secret(format!("key of {name}").into());
    Authority {
        number: 1,
        certificate: name.to_string().into(),
        cross: if name == "ca" { Bytes::new() } else { format!("cross to {name}").into() },
        key,
    }
}

fn found_by(name: &str) -> TrustCommand {
    let admin = Principal { name: "admin".into(), roles: vec!["admin".into()], ..Principal::default() };
    TrustCommand::Found { authority: authority(name), key: Secret(vec![1; 32].into()), admin, until: 900 }
}

#[test]
fn a_site_is_founded_once_and_without_it_nobody_is_known() {
    let mut records = Records::default();
    assert!(matches!(records.add("anna"), Err(Refusal::NotServed { .. })));
    records.apply(100, found_by("ca")).unwrap();
    let first = records.record();
    records.apply(101, found_by("ca")).unwrap();
    assert_eq!(records.record(), first, "again changes nothing");
    assert!(records.apply(101, found_by("other")).is_err());
    assert_eq!(users(&records.0).unwrap()[0].principal.id, PrincipalId(1));
}

#[test]
fn a_name_belongs_to_one_user_and_a_number_to_one_for_ever() {
    let mut records = Records::founded();
    assert_eq!(records.add("anna").unwrap().principal.id, PrincipalId(2));
    assert!(matches!(records.add("anna"), Err(Refusal::Invalid { .. })));
    let revoke = || TrustCommand::RevokeUser { name: "anna".into() };
    records.apply(100, revoke()).unwrap();
    assert_eq!(records.record().revoked, [PrincipalId(2)]);
    let version = records.record().version;
    records.apply(100, revoke()).unwrap();
    assert_eq!(records.record().version, version, "again changes nothing");
    assert_eq!(records.add("anna").unwrap().principal.id, PrincipalId(3));
    records.apply(100, revoke()).unwrap();
    assert_eq!(records.record().revoked, [PrincipalId(2), PrincipalId(3)]);
    assert!(records.apply(100, TrustCommand::RevokeUser { name: "bert".into() }).is_err());
    let renew = |name: &str| TrustCommand::RenewUser { name: name.into(), until: 700 };
    assert!(records.apply(100, renew("anna")).is_err(), "it was revoked");
    let bert = records.add("bert").unwrap();
    records.apply(100, renew("bert")).unwrap();
    assert!(users(&records.0).unwrap().contains(&User { until: 700, ..bert }));
}

#[test]
fn a_token_lets_one_folder_in_until_it_expires() {
    let mut records = Records::founded();
    let token = |id, until| TrustCommand::AddToken(Token { id, hash: Bytes::from_static(b"hash"), until, used: None });
    let join = |id, hash: &'static [u8], folder| TrustCommand::UseToken {
        id,
        hash: Bytes::from_static(hash),
        incarnation: Incarnation(folder),
    };
    records.apply(100, token(7, 200)).unwrap();
    let no = |result: Result<TrustOutcome, Refusal>| matches!(result, Err(Refusal::NotTrusted { .. }));
    assert!(no(records.apply(100, join(7, b"wrong", 1))));
    assert!(no(records.apply(100, join(8, b"hash", 1))));
    assert!(records.apply(100, join(7, b"hash", 1)).is_ok());
    assert!(records.apply(150, join(7, b"hash", 1)).is_ok(), "the same folder may ask again");
    assert!(no(records.apply(150, join(7, b"hash", 2))), "it was used");
    records.apply(150, token(9, 160)).unwrap();
    assert!(no(records.apply(160, join(9, b"hash", 3))), "it expired");
    // Those that expired make room.
    for id in 100..100 + MAX_TOKENS as u64 - 1 {
        records.apply(170, token(id, 180)).unwrap();
    }
    assert!(matches!(records.apply(170, token(1, 190)), Err(Refusal::NoSpace { .. })));
    assert!(records.apply(180, token(1, 190)).is_ok());
}

#[test]
fn two_keys_and_all_authorities_are_good_until_they_are_dropped() {
    let mut records = Records::founded();
    for byte in 2..5 {
        records.apply(100, TrustCommand::AddKey { secret: Secret(vec![byte; 32].into()) }).unwrap();
    }
    assert_eq!(records.record().keys.iter().map(|key| key.version).collect::<Vec<_>>(), [3, 4]);
    assert!(records.apply(100, TrustCommand::AddKey { secret: Secret(vec![1; 31].into()) }).is_err());
    records.apply(100, TrustCommand::AddAuthority(authority("new"))).unwrap();
    assert_eq!(records.record().news().authorities, ["ca", "new"]);
    assert_eq!(records.record().news().crosses, ["cross to new"]);
    records.apply(100, TrustCommand::DropAuthorities).unwrap();
    assert_eq!(records.record().authorities, [authority("new")]);
}

#[test]
fn what_is_secret_is_not_shown() {
    let records = Records::founded();
    let shown = format!("{:?} {:?}", records.record(), found_by("ca"));
    assert!(!shown.contains("key of ca") && !shown.contains("[1, 1") && shown.contains("Secret"), "{shown}");
}
