//! What is sent comes back the same, through real protobuf bytes; what no sender of ours makes is refused.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use weft_core::ids::{ChunkId, ClientId, GroupId, Ino, PgId, SlotId, SpaceId, VolumeId};
use weft_core::limits::{MAX_CHUNK, MAX_COMMIT_EXTENTS, MAX_FILE, MAX_MAP, MAX_READDIR};
use weft_core::name::{Name, XattrName};
use weft_core::namespace::inode::{Attr, Dirent, Extent, ExtentBody, Kind, SlotRef};
use weft_core::namespace::op::{AllocateMode, Commit, Op, RenameMode, SetAttr, SetTime, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Found, ListedEntry, Query, VolumeUse};
use weft_core::refusal::Refusal;
use weft_core::site::SiteOutcome;
use weft_core::time::Timestamp;

use super::*;
use crate::pb;

proptest! {
    #[test]
    fn a_change_comes_back_as_sent(op in op(), group: u32, volume: u64) {
        let sent = apply_request(Envelope::default(), GroupId(group), VolumeId(volume), &op);
        let read = parse_apply(through_bytes(&sent)).unwrap();
        let envelope = Envelope::default();
        prop_assert_eq!(read, ParsedApply { envelope, group: GroupId(group), volume: VolumeId(volume), op });
    }

    #[test]
    fn an_outcome_comes_back_as_sent(outcome in outcome()) {
        prop_assert_eq!(parse_apply_reply(through_bytes(&apply_reply(&outcome))), Ok(outcome));
    }

    #[test]
    fn a_question_comes_back_as_sent(query in query(), group: u32, volume: u64) {
        let sent = query_request(Envelope::default(), GroupId(group), VolumeId(volume), &query);
        let read = parse_query(through_bytes(&sent)).unwrap();
        let envelope = Envelope::default();
        prop_assert_eq!(read, ParsedQuery { envelope, group: GroupId(group), volume: VolumeId(volume), query });
    }

    #[test]
    fn an_answer_comes_back_as_sent(answer in answer()) {
        prop_assert_eq!(parse_query_reply(through_bytes(&query_reply(&answer))), Ok(answer));
    }

    #[test]
    fn no_bytes_make_the_conversions_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = pb::ApplyRequest::decode(&bytes[..]) {
            let _ = parse_apply(wire);
        }
        if let Ok(wire) = pb::QueryRequest::decode(&bytes[..]) {
            let _ = parse_query(wire);
        }
        if let Ok(wire) = pb::ApplyReply::decode(&bytes[..]) {
            let _ = parse_apply_reply(wire);
        }
        if let Ok(wire) = pb::QueryReply::decode(&bytes[..]) {
            let _ = parse_query_reply(wire);
        }
    }
}

#[test]
fn what_is_not_known_here_is_refused() {
    let envelope = || Some(Envelope::default().to_wire());
    let ask = |op| parse_apply(pb::ApplyRequest { envelope: envelope(), group: 1, volume: 1, op });
    use pb::apply_request::Op as Wire;

    assert!(matches!(ask(None), Err(Refusal::Invalid { .. })), "an unset oneof, as a newer client's operation reads");
    let pipe = pb::Mknod { parent: 1, name: "p".into(), kind: 0, mode: 0, rdev: 0 };
    assert!(matches!(ask(Some(Wire::Mknod(pipe))), Err(Refusal::Invalid { .. })));
    let moved = pb::Rename { parent: 1, name: "a".into(), new_parent: 1, new_name: "b".into(), mode: 9 };
    assert!(matches!(ask(Some(Wire::Rename(moved))), Err(Refusal::Invalid { .. })));
    let dir = |name: &[u8], mode| Some(Wire::Mkdir(pb::Mkdir { parent: 1, name: Bytes::copy_from_slice(name), mode }));
    assert_eq!(ask(dir(b"a/b", 0)), Err(Refusal::BadName));
    assert_eq!(ask(dir(&[b'x'; 256], 0)), Err(Refusal::NameTooLong { len: 256 }));
    assert!(matches!(ask(dir(b"a", 0o10000)), Err(Refusal::Invalid { .. })));
    assert!(matches!(ask(dir(b"a", 1 << 20)), Err(Refusal::Invalid { .. })));
    let far = pb::Unlink { parent: 1 << 40, name: "a".into() };
    assert!(matches!(ask(Some(Wire::Unlink(far))), Err(Refusal::Invalid { .. })));
    let zero = pb::Extent { offset: 0, len: 1, body: Some(pb::extent::Body::Zero(pb::Zero {})) };
    let much = pb::Commit { ino: 2, extents: vec![zero; MAX_COMMIT_EXTENTS + 1], ..Default::default() };
    assert!(matches!(ask(Some(Wire::Commit(much))), Err(Refusal::TooLarge { size: 513, limit: 512, .. })));
    let long = pb::Truncate { ino: 2, size: MAX_FILE + 1, ..Default::default() };
    assert_eq!(ask(Some(Wire::Truncate(long))), Err(Refusal::FileTooBig { size: MAX_FILE + 1 }));
    let late = pb::Time { secs: 0, nanos: 1_000_000_000 };
    let late = pb::Commit { ino: 2, mtime: Some(late), ..Default::default() };
    assert!(matches!(ask(Some(Wire::Commit(late))), Err(Refusal::Invalid { .. })));
    let fat = pb::SetXattr { ino: 2, name: "user.a".into(), value: vec![0; 65_537].into(), mode: 0 };
    assert_eq!(ask(Some(Wire::SetXattr(fat))), Err(Refusal::XattrTooBig { len: 65_537 }));
    let link =
        |target: Vec<u8>| ask(Some(Wire::Symlink(pb::Symlink { parent: 1, name: "a".into(), target: target.into() })));
    assert!(matches!(link(vec![]), Err(Refusal::Invalid { .. })));
    assert!(matches!(link(b"a\0b".to_vec()), Err(Refusal::Invalid { .. })));
    assert_eq!(link(vec![b'x'; 4096]), Err(Refusal::NameTooLong { len: 4096 }));
}

#[test]
fn a_long_listing_is_cut_not_refused() {
    let query = Query::Readdir { dir: Ino::ROOT, after: None, limit: u32::MAX, with_attrs: false };
    let read = parse_query(query_request(Envelope::default(), GroupId(1), VolumeId(1), &query)).unwrap();
    assert_eq!(read.query, Query::Readdir { dir: Ino::ROOT, after: None, limit: MAX_READDIR, with_attrs: false });
}

#[test]
fn an_answer_that_says_nothing_leaves_open_what_happened() {
    assert!(matches!(parse_apply_reply(pb::ApplyReply { outcome: None }), Err(Refusal::Unknown { .. })));
    assert!(matches!(parse_query_reply(pb::QueryReply { answer: None }), Err(Refusal::Unknown { .. })));
    for inner in [Outcome::Stepped { more: true }, Outcome::Site(SiteOutcome::Done)] {
        assert!(matches!(parse_apply_reply(apply_reply(&inner)), Err(Refusal::Unknown { .. })));
    }
}

fn through_bytes<M: Message + Default>(message: &M) -> M {
    M::decode(&message.encode_to_vec()[..]).expect("what was just encoded decodes")
}

fn op() -> impl Strategy<Value = Op> {
    let file_kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice)
    ];
    let rename_mode = prop_oneof![Just(RenameMode::Replace), Just(RenameMode::NoReplace), Just(RenameMode::Exchange)];
    let allocate_mode = prop_oneof![
        Just(AllocateMode::Reserve),
        Just(AllocateMode::ReserveKeepSize),
        Just(AllocateMode::PunchHole),
        Just(AllocateMode::ZeroRange),
        Just(AllocateMode::ZeroRangeKeepSize)
    ];
    let xattr_mode = prop_oneof![Just(XattrMode::Set), Just(XattrMode::Create), Just(XattrMode::Replace)];
    prop_oneof![
        (ino(), name(), mode()).prop_map(|(parent, name, mode)| Op::Mkdir { parent, name, mode }),
        (ino(), mode()).prop_map(|(parent, mode)| Op::Tmpfile { parent, mode }),
        (ino(), name(), mode(), any::<bool>()).prop_map(|(parent, name, mode, exclusive)| Op::Create {
            parent,
            name,
            mode,
            exclusive
        }),
        (ino(), name(), file_kind, mode(), any::<u32>()).prop_map(|(parent, name, kind, mode, rdev)| Op::Mknod {
            parent,
            name,
            kind,
            mode,
            rdev
        }),
        (ino(), name(), target()).prop_map(|(parent, name, target)| Op::Symlink { parent, name, target }),
        (ino(), ino(), name()).prop_map(|(ino, parent, name)| Op::Link { ino, parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Op::Unlink { parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Op::Rmdir { parent, name }),
        (ino(), name(), ino(), name(), rename_mode).prop_map(|(parent, name, new_parent, new_name, mode)| {
            Op::Rename { parent, name, new_parent, new_name, mode }
        }),
        (ino(), set_attr()).prop_map(|(ino, set)| Op::Setattr { ino, set }),
        (ino(), 0..=MAX_FILE, set_attr(), any::<bool>()).prop_map(|(ino, size, set, opened)| Op::Truncate {
            ino,
            size,
            set,
            opened
        }),
        (ino(), vec(extent_value(), 0..4), 0..=MAX_FILE, option::of(timestamp()), set_attr(), any::<bool>()).prop_map(
            |(ino, extents, size_at_least, mtime, set, clear_suid)| {
                Op::Commit(Commit { ino, extents, size_at_least, mtime, set, clear_suid })
            }
        ),
        (ino(), allocate_mode, any::<u64>(), any::<u64>()).prop_map(|(ino, mode, offset, len)| Op::Allocate {
            ino,
            mode,
            offset,
            len
        }),
        (any::<[u64; 4]>(), ino(), ino()).prop_map(|([volume, source_offset, target_offset, len], source, target)| {
            Op::CopyRange { source_volume: VolumeId(volume), source, source_offset, target, target_offset, len }
        }),
        (ino(), xattr_name(), blob(), xattr_mode).prop_map(|(ino, name, value, mode)| Op::SetXattr {
            ino,
            name,
            value,
            mode
        }),
        (ino(), xattr_name()).prop_map(|(ino, name)| Op::RemoveXattr { ino, name }),
        (ino(), name(), slot()).prop_map(|(parent, name, slot)| Op::MakeJunction { parent, name, slot }),
        (ino(), name()).prop_map(|(parent, name)| Op::RemoveJunction { parent, name }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Done),
        (attr_value(), any::<bool>()).prop_map(|(attr, fresh)| Outcome::Created { attr, fresh }),
        attr_value().prop_map(Outcome::Attr),
        attr_value().prop_map(|attr| Outcome::Removed { attr }),
        (attr_value(), option::of(attr_value()))
            .prop_map(|(attr, replaced)| Outcome::Renamed { attr, replaced: replaced.map(Box::new) }),
        (any::<u64>(), attr_value()).prop_map(|(len, attr)| Outcome::Copied { len, attr }),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    prop_oneof![
        (ino(), name()).prop_map(|(parent, name)| Query::Lookup { parent, name }),
        ino().prop_map(|ino| Query::Getattr { ino }),
        (ino(), any::<bool>(), any::<bool>()).prop_map(|(ino, read, write)| Query::Open { ino, read, write }),
        (ino(), option::of(name()), 0..=MAX_READDIR, any::<bool>())
            .prop_map(|(dir, after, limit, with_attrs)| Query::Readdir { dir, after, limit, with_attrs }),
        ino().prop_map(|ino| Query::Readlink { ino }),
        (ino(), any::<u64>(), 0..=MAX_MAP).prop_map(|(ino, offset, limit)| Query::Map { ino, offset, limit }),
        (ino(), xattr_name()).prop_map(|(ino, name)| Query::GetXattr { ino, name }),
        ino().prop_map(|ino| Query::ListXattr { ino }),
        Just(Query::Statfs),
        (ino(), 0..=7u8).prop_map(|(ino, mask)| Query::Access { ino, mask }),
        slot().prop_map(|SlotRef { space, slot }| Query::Slot { space, slot }),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let dirent = prop_oneof![
        (ino(), kind_value()).prop_map(|(ino, kind)| Dirent::Inode { ino, kind }),
        slot().prop_map(Dirent::Junction),
    ];
    let entry =
        (name(), dirent, option::of(attr_value())).prop_map(|(name, dirent, attr)| ListedEntry { name, dirent, attr });
    prop_oneof![
        attr_value().prop_map(|attr| Answer::Found(Found::Inode(attr))),
        slot().prop_map(|slot| Answer::Found(Found::Junction(slot))),
        attr_value().prop_map(Answer::Attr),
        (vec(entry, 0..4), any::<bool>(), attr_value()).prop_map(|(entries, end, dir)| Answer::Entries {
            entries,
            end,
            dir
        }),
        (attr_value(), vec(extent_value(), 0..4), option::of(any::<u64>()))
            .prop_map(|(attr, extents, more_from)| Answer::Map { attr, extents, more_from }),
        blob().prop_map(Answer::Bytes),
        vec(blob(), 0..4).prop_map(Answer::Names),
        any::<[u64; 4]>().prop_map(|[bytes, inodes, max_bytes, max_inodes]| {
            Answer::Statfs(VolumeUse { bytes, inodes, max_bytes, max_inodes })
        }),
        any::<u64>().prop_map(|volume| Answer::Slot(VolumeId(volume))),
        Just(Answer::Done),
    ]
}

fn ino() -> impl Strategy<Value = Ino> {
    (0..=Ino::MAX.0).prop_map(Ino)
}

fn mode() -> impl Strategy<Value = u16> {
    0..=0o7777u16
}

fn name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..40).prop_filter_map("a name", |bytes| Name::parse(bytes).ok())
}

fn xattr_name() -> impl Strategy<Value = XattrName> {
    vec(1..=255u8, 1..40).prop_filter_map("a name", |bytes| XattrName::parse(bytes).ok())
}

fn target() -> impl Strategy<Value = Bytes> {
    vec(1..=255u8, 1..100).prop_map(Bytes::from)
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..100).prop_map(Bytes::from)
}

fn slot() -> impl Strategy<Value = SlotRef> {
    any::<(u64, u64)>().prop_map(|(space, slot)| SlotRef { space: SpaceId(space), slot: SlotId(slot) })
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

fn set_time() -> impl Strategy<Value = SetTime> {
    prop_oneof![Just(SetTime::Now), timestamp().prop_map(SetTime::To)]
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    let owner = (option::of(any::<u32>()), option::of(any::<u32>()));
    let times = (option::of(set_time()), option::of(set_time()), option::of(set_time()));
    (option::of(mode()), owner, times).prop_map(|(mode, (uid, gid), (atime, mtime, ctime))| SetAttr {
        mode,
        uid,
        gid,
        atime,
        mtime,
        ctime,
    })
}

fn kind_value() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice)
    ]
}

fn extent_value() -> impl Strategy<Value = Extent> {
    let chunk = (1..=MAX_CHUNK)
        .prop_flat_map(|chunk_len| (Just(chunk_len), 0..chunk_len))
        .prop_flat_map(|(chunk_len, at)| (Just(chunk_len), Just(at), 1..=chunk_len - at, any::<(u64, u64, u32)>()))
        .prop_map(|(chunk_len, at, len, (client, counter, pg))| {
            let chunk = ChunkId { client: ClientId(client), counter };
            (len, ExtentBody::Chunk { chunk, pg: PgId(pg), at, chunk_len })
        });
    let inline = vec(any::<u8>(), 1..100).prop_map(|bytes| (bytes.len() as u32, ExtentBody::Inline(bytes.into())));
    let zero = (1..=MAX_CHUNK).prop_map(|len| (len, ExtentBody::Zero));
    (0..=MAX_FILE - u64::from(MAX_CHUNK), prop_oneof![chunk, inline, zero]).prop_map(|(offset, (len, body))| Extent {
        offset,
        len,
        body,
    })
}

fn attr_value() -> impl Strategy<Value = Attr> {
    let ids = (any::<u64>(), ino(), ino(), kind_value());
    let times = (timestamp(), timestamp(), timestamp(), timestamp());
    (ids, mode(), any::<[u32; 5]>(), any::<[u64; 3]>(), times).prop_map(
        |(
            (volume, ino, parent, kind),
            mode,
            [uid, gid, nlink, rdev, generation],
            [size, allocated, version],
            (atime, mtime, ctime, btime),
        )| Attr {
            volume: VolumeId(volume),
            ino,
            kind,
            mode,
            uid,
            gid,
            nlink,
            size,
            allocated,
            rdev,
            atime,
            mtime,
            ctime,
            btime,
            generation,
            version,
            parent,
            acl: None,
            default_acl: None,
        },
    )
}
