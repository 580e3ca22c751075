//! Every request is done once, and only in a session.

use weft_core::entry::Command;
use weft_core::ids::{ClientId, Ino, PrincipalId, Seq};
use weft_core::limits::MAX_WINDOW;
use weft_core::machine;
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use crate::group::{CLIENT, Group, SPACE, VOLUME, chunk, commit, name, piece};

fn create(text: &str) -> Op {
    Op::Create { parent: Ino::ROOT, name: name(text), mode: 0o644, exclusive: true }
}

#[test]
fn a_repeated_request_gets_its_first_answer_even_when_that_was_a_refusal() {
    let mut group = Group::new();
    let first = group.request(group.caller(1), create("a"));
    let second = group.request(group.caller(2), create("a"));
    let (made, refused) = (group.apply(&first), group.apply(&second));
    assert!(made.reply.is_ok());
    assert!(matches!(refused.reply, Err(Refusal::Exists { .. })));
    let unlink = group.request(group.caller(3), Op::Unlink { parent: Ino::ROOT, name: name("a") });
    assert!(group.apply(&unlink).reply.is_ok());
    for (entry, reply) in [(&first, made.reply), (&second, refused.reply)] {
        let again = group.apply(entry);
        assert_eq!(again.reply, reply);
        assert!(again.changes.is_empty());
    }
}

#[test]
fn numbers_below_the_mark_and_beyond_the_window_are_refused_and_leave_nothing() {
    let mut group = Group::new();
    let mut caller = group.caller(100);
    caller.acked_below = Seq(90);
    assert!(group.apply(&group.request(caller.clone(), create("a"))).reply.is_ok());
    for (seq, acked, refusal) in [
        (89, 0, Refusal::SeqTooLow { seq: Seq(89) }),
        (200, 201, Refusal::SeqTooLow { seq: Seq(200) }),
        (0, 0, Refusal::SeqTooLow { seq: Seq(0) }),
        (90 + MAX_WINDOW, 0, Refusal::WindowFull { seq: Seq(90 + MAX_WINDOW) }),
        (u64::MAX, 0, Refusal::WindowFull { seq: Seq(u64::MAX) }),
    ] {
        let late = crate::group::Group::request(&group, caller_at(&group, seq, acked), create("b"));
        let applied = group.apply(&late);
        assert_eq!(applied.reply, Err(refusal));
        assert!(applied.changes.is_empty());
    }
    // A mark that a refused request claimed is not believed.
    assert!(group.apply(&group.request(caller_at(&group, 90 + MAX_WINDOW - 1, 0), create("b"))).reply.is_ok());
}

fn caller_at(group: &Group, seq: u64, acked_below: u64) -> weft_core::entry::Caller {
    weft_core::entry::Caller { acked_below: Seq(acked_below), ..group.caller(seq) }
}

#[test]
fn replies_do_not_pile_up() {
    let mut group = Group::new();
    let before = group.records.len();
    for _ in 0..3 * MAX_WINDOW {
        assert!(group.ask(create("a")).is_ok() || group.seq > 1);
    }
    let replies = group.records.len() - before;
    assert!(replies as u64 <= MAX_WINDOW + 4, "{replies} records more");
    let ended = group.own(Command::EndSession { client: CLIENT, space: SPACE });
    assert!(ended.reply.is_ok());
    assert!(group.records.len() <= before + 4, "the end of a session takes its replies along");
}

#[test]
fn only_an_open_session_may_ask_and_an_ended_one_never_again() {
    let mut group = Group::new();
    let stranger = weft_core::entry::Caller { client: weft_core::ids::ClientId(5), ..group.caller(1) };
    let unknown = Refusal::NoSession { client: stranger.client, space: SPACE };
    assert_eq!(group.apply(&group.request(stranger.clone(), create("a"))).reply, Err(unknown.clone()));
    assert_eq!(machine::session(&group.records, stranger.client, SPACE), Ok(Err(unknown)));

    let answered = group.request(group.caller(1), create("a"));
    assert!(group.apply(&answered).reply.is_ok());
    assert!(group.own(Command::EndSession { client: CLIENT, space: SPACE }).reply.is_ok());
    let ended = Err(Refusal::SessionEnded { client: CLIENT, space: SPACE });
    assert_eq!(group.apply(&answered).reply, ended);
    assert_eq!(group.own(Command::OpenSession { client: CLIENT, space: SPACE }).reply, ended);
    assert_eq!(machine::sessions(&group.records), Ok(vec![]));
    assert!(machine::session_list(&group.records).expect("a map").iter().any(|s| s.client == CLIENT && s.ended));
}

#[test]
fn an_ended_session_can_name_no_chunk_and_its_freed_ones_may_be_forgotten() {
    let mut group = Group::new();
    let file = group.create("a").ino;
    let id = chunk(CLIENT, 1);
    assert!(group.ask(commit(file, vec![piece(0, id, 100)])).is_ok());
    assert!(group.ask(commit(file, vec![piece(0, chunk(CLIENT, 2), 100)])).is_ok());
    assert!(matches!(group.ask(commit(file, vec![piece(0, id, 100)])), Err(Refusal::ChunkNotYours { .. })));
    let forget = weft_core::namespace::step::Step::ForgetFreed { space: SPACE, chunks: vec![id] };
    assert!(group.own(Command::Step(forget.clone())).reply.is_ok());
    let freed = |group: &Group| machine::freed_chunks(&group.records, SPACE, None, 10).expect("a map").len();
    assert_eq!(freed(&group), 1, "its uploader could name it again if it were forgotten");
    assert!(group.own(Command::EndSession { client: CLIENT, space: SPACE }).reply.is_ok());
    assert!(group.own(Command::Step(forget)).reply.is_ok());
    assert_eq!(freed(&group), 0);
    assert_eq!(machine::chunk_state(&group.records, SPACE, id), Ok(machine::ChunkState::Abandoned));
    group.check();
}

#[test]
fn the_time_of_a_group_never_goes_back() {
    let mut group = Group::new();
    group.time = 5_000;
    assert_eq!(group.create("a").mtime, Timestamp::from_nanos(5_001));
    group.time = 10;
    assert_eq!(group.create("b").mtime, Timestamp::from_nanos(5_001));
    assert_eq!(machine::group_time(&group.records), Ok(Some(Timestamp::from_nanos(5_001))));
}

#[test]
fn the_usual_operations_change_few_records() {
    let mut group = Group::new();
    let create = group.once(create("a"));
    // Clock, session, reply, head, parent, dirent, inode.
    assert_eq!(create.changes.len(), 7);
    let Ok(Outcome::Created { attr, .. }) = create.reply else { panic!("no file") };
    let write = group.once(commit(attr.ino, vec![piece(0, chunk(CLIENT, 1), 4096)]));
    // Clock, session, reply, head, inode, extent, count of the chunk.
    assert_eq!(write.changes.len(), 7);
    let small = group.once(commit(attr.ino, vec![crate::group::inline(4096, b"small")]));
    assert_eq!(small.changes.len(), 6);
    let Ok(Answer::Attr(attr)) = group.query(Query::Getattr { ino: attr.ino }) else { panic!("no attributes") };
    assert_eq!((attr.size, attr.volume), (4101, VOLUME));
}

#[test]
fn nobody_asks_in_the_session_of_another_user() {
    let mut group = Group::new();
    let (client, anna, bert) = (ClientId(99), PrincipalId(5), PrincipalId(6));
    let own = |owner| Command::OwnSession { client, space: SPACE, owner };
    assert_eq!(group.own(own(anna)).reply, Ok(Outcome::Done));
    assert_eq!(group.own(own(anna)).reply, Ok(Outcome::Done), "again changes nothing");
    let refused = group.own(own(bert)).reply;
    assert!(matches!(refused, Err(Refusal::NotTrusted { .. })), "{refused:?}");
    let may = |group: &Group, user| machine::session_of(&group.records, client, SPACE, user).unwrap();
    assert_eq!(may(&group, anna), Ok(()));
    assert!(matches!(may(&group, bert), Err(Refusal::NotTrusted { .. })));
    group.own(Command::EndSession { client, space: SPACE }).reply.expect("ended");
    assert!(matches!(may(&group, anna), Err(Refusal::SessionEnded { .. })));
}
