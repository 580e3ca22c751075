//! Rules of Linux that a model written by the same hand could get wrong in the same way: each told once, by example.

use weft_core::entry::{Caller, Cred};
use weft_core::ids::Ino;
use weft_core::limits::MAX_LINKS;
use weft_core::namespace::inode::{Attr, Kind};
use weft_core::namespace::op::{Op, RenameMode, SetAttr, SetTime};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::{Refusal, errno};
use weft_core::time::Timestamp;

use crate::group::{Group, VOLUME, commit, inline, name};

const USER: u32 = 65534;
const OTHER: u32 = 65533;

impl Group {
    fn as_user(&mut self, uid: u32, gids: &[u32], op: Op) -> Result<Outcome, Refusal> {
        self.seq += 1;
        self.time += 1;
        let cred = Cred { uid, gid: gids[0], gids: gids[1..].to_vec(), ..Cred::default() };
        let caller = Caller { cred, ..self.caller(self.seq) };
        let entry = self.request(caller, op);
        self.apply(&entry).reply
    }

    fn mkdir(&mut self, text: &str, mode: u16, uid: u32, gid: u32) -> Attr {
        let made = self.ask(Op::Mkdir { parent: Ino::ROOT, name: name(text), mode: mode & 0o1777 });
        let Ok(Outcome::Created { attr, .. }) = made else { panic!("{made:?}") };
        self.own_as(attr.ino, mode, uid, gid)
    }

    fn own_as(&mut self, ino: Ino, mode: u16, uid: u32, gid: u32) -> Attr {
        let owned = SetAttr { uid: Some(uid), gid: Some(gid), mode: Some(mode), ..SetAttr::default() };
        let Ok(Outcome::Attr(attr)) = self.ask(Op::Setattr { ino, set: owned }) else { panic!("not owned") };
        attr
    }
}

fn chmod(ino: Ino, mode: u16) -> Op {
    Op::Setattr { ino, set: SetAttr { mode: Some(mode), ..SetAttr::default() } }
}

fn chown(ino: Ino, uid: Option<u32>, gid: Option<u32>) -> Op {
    Op::Setattr { ino, set: SetAttr { uid, gid, ..SetAttr::default() } }
}

fn create(parent: Ino, text: &str, mode: u16) -> Op {
    Op::Create { parent, name: name(text), mode, exclusive: true }
}

fn mode_of(reply: Result<Outcome, Refusal>) -> u16 {
    match reply {
        Ok(Outcome::Attr(attr) | Outcome::Created { attr, .. }) => attr.mode,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sticky_directory_lets_owners_remove_only() {
    let mut group = Group::new();
    let dir = group.mkdir("d", 0o1777, 0, 0).ino;
    assert!(group.as_user(USER, &[USER], create(dir, "f", 0o644)).is_ok());
    let unlink = Op::Unlink { parent: dir, name: name("f") };
    let rename =
        Op::Rename { parent: dir, name: name("f"), new_parent: dir, new_name: name("g"), mode: RenameMode::Replace };
    for op in [unlink.clone(), rename] {
        assert_eq!(group.as_user(OTHER, &[OTHER], op).map_err(|refusal| refusal.errno()), Err(errno::EPERM));
    }
    assert!(group.as_user(USER, &[USER], unlink).is_ok());
}

#[test]
fn chown_is_the_superusers_and_takes_set_id_bits_along() {
    let mut group = Group::new();
    let file = group.create("f").ino;
    group.own_as(file, 0o6755, USER, USER);
    assert_eq!(group.as_user(USER, &[USER], chown(file, Some(OTHER), None)), Err(Refusal::NotPermitted));
    assert_eq!(group.as_user(USER, &[USER], chown(file, None, Some(OTHER))), Err(Refusal::NotPermitted));
    assert_eq!(mode_of(group.as_user(USER, &[USER, OTHER], chown(file, None, Some(OTHER)))), 0o755);
    let dir = group.mkdir("d", 0o6755, USER, USER).ino;
    assert_eq!(mode_of(group.as_user(USER, &[USER, OTHER], chown(dir, Some(USER), Some(OTHER)))), 0o6755);
}

#[test]
fn chmod_by_somebody_outside_the_group_clears_set_gid() {
    let mut group = Group::new();
    let file = group.create("f").ino;
    group.own_as(file, 0o755, USER, OTHER);
    assert_eq!(mode_of(group.as_user(USER, &[USER], chmod(file, 0o2755))), 0o755);
    assert_eq!(mode_of(group.as_user(USER, &[USER, OTHER], chmod(file, 0o2755))), 0o2755);
    assert_eq!(group.as_user(OTHER, &[OTHER], chmod(file, 0o777)), Err(Refusal::NotPermitted));
}

#[test]
fn what_is_made_in_a_set_gid_directory_gets_its_group() {
    let mut group = Group::new();
    let dir = group.mkdir("d", 0o2777, 0, OTHER).ino;
    let Ok(Outcome::Created { attr: file, .. }) = group.as_user(USER, &[USER], create(dir, "f", 0o2775)) else {
        panic!("no file")
    };
    assert_eq!((file.gid, file.mode), (OTHER, 0o775));
    let made = group.as_user(USER, &[USER], Op::Mkdir { parent: dir, name: name("s"), mode: 0o4755 });
    let Ok(Outcome::Created { attr: sub, .. }) = made else { panic!("no directory") };
    assert_eq!((sub.gid, sub.mode), (OTHER, 0o2755));
}

#[test]
fn a_write_by_a_plain_user_clears_set_id_bits() {
    let mut group = Group::new();
    let file = group.create("f").ino;
    group.own_as(file, 0o6775, USER, USER);
    let Op::Commit(mut write) = commit(file, vec![inline(0, b"x")]) else { panic!("a commit") };
    assert_eq!(mode_of(group.as_user(USER, &[USER], Op::Commit(write.clone()))), 0o6775);
    write.clear_suid = true;
    assert_eq!(mode_of(group.as_user(USER, &[USER], Op::Commit(write))), 0o775);
    group.own_as(file, 0o6775, USER, USER);
    let truncate = Op::Truncate { ino: file, size: 0, set: SetAttr::default(), opened: false };
    assert_eq!(mode_of(group.ask(truncate.clone())), 0o6775);
    assert_eq!(mode_of(group.as_user(USER, &[USER], truncate)), 0o775);
}

#[test]
fn a_truncation_through_an_open_file_asks_no_mode_bits() {
    let mut group = Group::new();
    let file = group.create("f").ino;
    group.own_as(file, 0o400, USER, USER);
    let truncate = |opened| Op::Truncate { ino: file, size: 3, set: SetAttr::default(), opened };
    assert_eq!(group.as_user(USER, &[USER], truncate(false)), Err(Refusal::Denied));
    assert!(group.as_user(USER, &[USER], truncate(true)).is_ok());
    assert!(group.as_user(USER, &[USER], commit(file, vec![inline(0, b"x")])).is_ok());
}

#[test]
fn times_are_the_owners_and_touch_is_whoever_may_write() {
    let mut group = Group::new();
    let file = group.create("f").ino;
    group.own_as(file, 0o666, USER, USER);
    let set = |atime, mtime| Op::Setattr { ino: file, set: SetAttr { atime, mtime, ..SetAttr::default() } };
    let then = Some(SetTime::To(Timestamp { secs: -5, nanos: 7 }));
    let now = Some(SetTime::Now);
    assert_eq!(group.as_user(OTHER, &[OTHER], set(then, then)), Err(Refusal::NotPermitted));
    assert_eq!(group.as_user(OTHER, &[OTHER], set(now, None)), Err(Refusal::NotPermitted));
    assert!(group.as_user(OTHER, &[OTHER], set(now, now)).is_ok());
    assert!(group.as_user(USER, &[USER], set(then, None)).is_ok());
    assert_eq!(group.attr(file).atime, Timestamp { secs: -5, nanos: 7 });
    group.own_as(file, 0o644, USER, USER);
    assert_eq!(group.as_user(OTHER, &[OTHER], set(now, now)), Err(Refusal::Denied));
}

#[test]
fn names_of_one_file_rename_to_nothing_and_directories_have_one_name() {
    let mut group = Group::new();
    let file = group.create("a").ino;
    assert!(group.ask(Op::Link { ino: file, parent: Ino::ROOT, name: name("b") }).is_ok());
    let rename = Op::Rename {
        parent: Ino::ROOT,
        name: name("a"),
        new_parent: Ino::ROOT,
        new_name: name("b"),
        mode: RenameMode::Replace,
    };
    let attr = group.attr(file);
    assert_eq!(group.ask(rename), Ok(Outcome::Renamed { attr, replaced: None }));
    assert_eq!(group.attr(file).nlink, 2);
    let dir = group.mkdir("d", 0o755, 0, 0).ino;
    let link = group.ask(Op::Link { ino: dir, parent: Ino::ROOT, name: name("e") });
    assert_eq!(link.map_err(|refusal| refusal.errno()), Err(errno::EPERM));
    let unlink = group.ask(Op::Unlink { parent: Ino::ROOT, name: name("d") });
    assert_eq!(unlink.map_err(|refusal| refusal.errno()), Err(errno::EISDIR));
}

#[test]
fn nothing_is_made_in_a_directory_that_was_removed() {
    let mut group = Group::new();
    let dir = group.mkdir("d", 0o777, 0, 0).ino;
    assert!(group.ask(Op::Rmdir { parent: Ino::ROOT, name: name("d") }).is_ok());
    assert_eq!(group.ask(create(dir, "f", 0o644)), Err(Refusal::NoEntry));
    let Ok(Answer::Entries { entries, end: true, dir }) =
        group.query(Query::Readdir { dir, after: None, limit: 10, with_attrs: false })
    else {
        panic!("no listing")
    };
    assert_eq!((entries.len(), dir.nlink, dir.kind, dir.volume), (0, 0, Kind::Directory, VOLUME));
}

#[test]
fn nobody_runs_a_file_without_an_execute_bit() {
    let mut group = Group::new();
    let file = group.create("f").ino;
    let access = |group: &Group, mask| group.query(Query::Access { ino: file, mask });
    assert_eq!(access(&group, 7), Err(Refusal::Denied));
    assert_eq!(access(&group, 6), Ok(Answer::Done));
    assert!(group.ask(chmod(file, 0o001)).is_ok());
    assert_eq!(access(&group, 7), Ok(Answer::Done));
}

#[test]
fn space_reserved_behind_the_end_reads_as_nothing_and_goes_with_a_truncation() {
    let mut group = Group::new();
    let file = group.create("f").ino;
    let mode = weft_core::namespace::op::AllocateMode::ReserveKeepSize;
    assert!(group.ask(Op::Allocate { ino: file, mode, offset: 0, len: 10_000 }).is_ok());
    assert_eq!((group.attr(file).size, group.attr(file).allocated), (0, 10_000));
    assert_eq!(group.map(file), vec![]);
    let truncate = Op::Truncate { ino: file, size: 100, set: SetAttr::default(), opened: true };
    assert!(group.ask(truncate).is_ok());
    assert_eq!((group.attr(file).size, group.attr(file).allocated), (100, 100));
    group.check();
}

#[test]
fn a_file_has_as_many_names_as_the_limit_allows() {
    let mut group = Group::new();
    let ino = group.create("file").ino;
    let link = |n: u32| Op::Link { ino, parent: Ino::ROOT, name: name(&format!("link{n}")) };
    for n in 1..MAX_LINKS {
        assert!(group.ask(link(n)).is_ok());
    }
    assert_eq!(group.attr(ino).nlink, 65_000);
    assert_eq!(group.ask(link(0)).map_err(|refusal| refusal.errno()), Err(errno::EMLINK));
    assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name("link1") }).is_ok());
    assert!(group.ask(link(0)).is_ok());
}
