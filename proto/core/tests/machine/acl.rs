//! Access lists, the umask, and files without a name, each rule told once.

use bytes::{BufMut, Bytes, BytesMut};
use weft_core::entry::{Caller, Cred};
use weft_core::ids::{ClientId, Ino};
use weft_core::machine;
use weft_core::name::XattrName;
use weft_core::namespace::inode::Attr;
use weft_core::namespace::op::{Op, SetAttr, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::namespace::step::Step;
use weft_core::refusal::{Refusal, errno};

use crate::group::{Group, VOLUME, name};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const OWNER: u32 = 1000;
const FRIEND: u32 = 1001;
const STRANGER: u32 = 1002;

fn cred(uid: u32, umask: u16) -> Cred {
    Cred { uid, gid: uid, umask, ..Cred::default() }
}

fn xattr(text: &str) -> XattrName {
    XattrName::parse(text.as_bytes().to_vec()).expect("a good name")
}

/// A list with rights for the friend, as setfacl writes it.
fn list(owner: u16, friend: u16, group: u16, mask: u16, others: u16) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(2);
    for (tag, rights, id) in
        [(1, owner, u32::MAX), (2, friend, FRIEND), (4, group, u32::MAX), (16, mask, u32::MAX), (32, others, u32::MAX)]
    {
        out.put_u16_le(tag);
        out.put_u16_le(rights);
        out.put_u32_le(id);
    }
    out.freeze()
}

impl Group {
    fn on_behalf(&mut self, cred: Cred, op: Op) -> Result<Outcome, Refusal> {
        self.seq += 1;
        self.time += 1;
        let caller = Caller { cred, ..self.caller(self.seq) };
        let entry = self.request(caller, op);
        let reply = self.apply(&entry).reply;
        self.check();
        reply
    }

    fn made(&mut self, cred: Cred, op: Op) -> Attr {
        match self.on_behalf(cred, op) {
            Ok(Outcome::Created { attr, .. }) => attr,
            other => panic!("{other:?}"),
        }
    }

    fn set(&mut self, uid: u32, ino: Ino, text: &str, value: Bytes) -> Result<Outcome, Refusal> {
        self.on_behalf(cred(uid, 0), Op::SetXattr { ino, name: xattr(text), value, mode: XattrMode::Set })
    }

    fn may(&self, uid: u32, ino: Ino, mask: u8) -> bool {
        let query = Query::Access { ino, mask };
        machine::query(&self.records, VOLUME, ClientId(0), &cred(uid, 0), &query).expect("a map").is_ok()
    }

    fn value(&self, ino: Ino, text: &str) -> Option<Bytes> {
        match self.query(Query::GetXattr { ino, name: xattr(text) }) {
            Ok(Answer::Bytes(value)) => Some(value),
            Err(Refusal::NoXattr) => None,
            other => panic!("{other:?}"),
        }
    }

    fn names(&self, ino: Ino) -> Vec<Bytes> {
        match self.query(Query::ListXattr { ino }) {
            Ok(Answer::Names(names)) => names,
            other => panic!("{other:?}"),
        }
    }

    fn dir_of(&mut self, uid: u32) -> Ino {
        let dir = self.made(cred(0, 0), Op::Mkdir { parent: Ino::ROOT, name: name("dir"), mode: 0o755 }).ino;
        let set = SetAttr { uid: Some(uid), gid: Some(uid), ..SetAttr::default() };
        assert!(self.ask(Op::Setattr { ino: dir, set }).is_ok());
        dir
    }
}

fn create(parent: Ino, text: &str, mode: u16) -> Op {
    Op::Create { parent, name: name(text), mode, exclusive: true }
}

#[test]
fn a_list_lets_in_whom_it_names_and_moves_with_the_mode() {
    let mut group = Group::new();
    let dir = group.dir_of(OWNER);
    let file = group.made(cred(OWNER, 0o077), create(dir, "file", 0o666)).ino;
    assert_eq!(group.attr(file).mode, 0o600, "the umask counts");
    assert!(!group.may(FRIEND, file, 4));
    assert_eq!(group.set(FRIEND, file, ACCESS, list(6, 6, 0, 6, 0)), Err(Refusal::NotPermitted));
    assert!(group.set(OWNER, file, ACCESS, list(6, 6, 0, 6, 0)).is_ok());
    assert_eq!(group.attr(file).mode, 0o660, "the group's bits show the mask");
    assert!(group.may(FRIEND, file, 6) && !group.may(STRANGER, file, 4));
    assert_eq!(group.value(file, ACCESS), Some(list(6, 6, 0, 6, 0)));
    assert_eq!(group.names(file), [ACCESS.as_bytes()]);
    // chmod changes the mask, not the entries.
    let chmod = Op::Setattr { ino: file, set: SetAttr { mode: Some(0o640), ..SetAttr::default() } };
    assert!(group.on_behalf(cred(OWNER, 0), chmod).is_ok());
    assert!(group.may(FRIEND, file, 4) && !group.may(FRIEND, file, 2));
    assert_eq!(group.value(file, ACCESS), Some(list(6, 6, 0, 4, 0)));
    // A list that says no more than mode bits is none.
    let mut plain = BytesMut::from(&list(7, 0, 5, 0, 1)[..]);
    let base: Bytes = [&plain.split_to(12)[..], &plain[8..16], &plain[24..32]].concat().into();
    assert!(group.set(OWNER, file, ACCESS, base).is_ok());
    assert_eq!((group.attr(file).mode, group.value(file, ACCESS)), (0o751, None));
    assert!(group.names(file).is_empty());
}

#[test]
fn what_is_made_in_a_directory_with_a_default_list_inherits_it() {
    let mut group = Group::new();
    let dir = group.dir_of(OWNER);
    assert!(group.set(OWNER, dir, DEFAULT, list(7, 7, 5, 7, 0)).is_ok());
    assert_eq!(group.attr(dir).mode, 0o755, "a default list is about what comes");
    // The umask does not count where there is a default list.
    let file = group.made(cred(OWNER, 0o077), create(dir, "file", 0o666));
    assert_eq!((file.mode, group.value(file.ino, ACCESS)), (0o660, Some(list(6, 7, 5, 6, 0))));
    assert!(group.may(FRIEND, file.ino, 6) && !group.may(FRIEND, file.ino, 1));
    assert_eq!(group.value(file.ino, DEFAULT), None);
    let below = group.made(cred(OWNER, 0o077), Op::Mkdir { parent: dir, name: name("below"), mode: 0o777 });
    assert_eq!((below.mode, group.value(below.ino, DEFAULT)), (0o770, Some(list(7, 7, 5, 7, 0))));
    let link = Op::Symlink { parent: dir, name: name("link"), target: "x".into() };
    let link = group.made(cred(OWNER, 0o077), link);
    assert_eq!((link.mode, group.value(link.ino, ACCESS)), (0o777, None));
    assert_eq!(group.set(OWNER, file.ino, DEFAULT, list(7, 7, 5, 7, 0)), Err(Refusal::Denied));
    for _ in 0..2 {
        let remove = Op::RemoveXattr { ino: dir, name: xattr(DEFAULT) };
        assert!(group.on_behalf(cred(OWNER, 0), remove).is_ok(), "what is gone may be removed again");
    }
    assert_eq!(group.made(cred(OWNER, 0o027), create(dir, "plain", 0o666)).mode, 0o640);
}

#[test]
fn a_list_that_breaks_the_rules_is_refused() {
    let mut group = Group::new();
    let file = group.create("file").ino;
    for bad in [&list(7, 7, 7, 7, 9)[..], &list(7, 7, 7, 7, 7)[..20], b"\x01\0\0\0garbage "] {
        let refused = group.set(0, file, ACCESS, Bytes::copy_from_slice(bad));
        assert_eq!(refused.map_err(|refusal| refusal.errno()), Err(errno::EINVAL));
    }
    let link = Op::Symlink { parent: Ino::ROOT, name: name("link"), target: "x".into() };
    let link = group.made(cred(0, 0), link).ino;
    let refused = group.set(0, link, ACCESS, list(7, 7, 7, 7, 7));
    assert_eq!(refused.map_err(|refusal| refusal.errno()), Err(errno::EOPNOTSUPP));
}

#[test]
fn a_file_without_a_name_gets_one_or_goes() {
    let mut group = Group::new();
    let dir = group.dir_of(OWNER);
    let nameless = Op::Tmpfile { parent: dir, mode: 0o600 };
    assert_eq!(group.on_behalf(cred(FRIEND, 0), nameless.clone()), Err(Refusal::Denied));
    let first = group.made(cred(OWNER, 0), nameless.clone());
    assert_eq!((first.nlink, first.uid), (0, OWNER));
    let second = group.made(cred(OWNER, 0), nameless).ino;
    let link = |ino, text| Op::Link { ino, parent: dir, name: name(text) };
    assert!(group.on_behalf(cred(OWNER, 0), link(first.ino, "first")).is_ok());
    assert_eq!(group.attr(first.ino).nlink, 1);
    // The step that was meant for it while it had no name finds it alive.
    for ino in [first.ino, second] {
        group.own(weft_core::entry::Command::Step(Step::ReapOrphans { volume: VOLUME, inos: vec![ino] }));
        group.check();
    }
    assert_eq!(group.attr(first.ino).nlink, 1);
    assert!(group.query(Query::Getattr { ino: second }).is_err());
    // One that lost its name gets no other.
    assert!(group.on_behalf(cred(OWNER, 0), Op::Unlink { parent: dir, name: name("first") }).is_ok());
    assert_eq!(group.on_behalf(cred(OWNER, 0), link(first.ino, "again")), Err(Refusal::NoEntry));
}
