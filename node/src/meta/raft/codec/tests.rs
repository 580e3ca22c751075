use openraft::Entry as RaftEntry;
use proptest::prelude::*;

use super::*;

fn replica() -> impl Strategy<Value = ReplicaId> {
    (any::<u32>(), any::<u64>())
        .prop_map(|(node, incarnation)| ReplicaId { node: NodeId(node), incarnation: Incarnation(incarnation) })
}

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), replica(), 0..u64::MAX - 1_000)
        .prop_map(|(term, at, index)| LogId::new(LeaderId::new(term, at), index))
}

fn vote() -> impl Strategy<Value = Vote> {
    (any::<u64>(), replica(), any::<bool>())
        .prop_map(|(term, at, committed)| Vote { leader_id: LeaderId::new(term, at), committed })
}

fn membership() -> impl Strategy<Value = Membership> {
    let nodes = prop::collection::btree_map(replica(), "[a-z0-9.:]{0,30}".prop_map(|addr| Address { addr }), 1..6);
    (nodes, any::<bool>()).prop_map(|(nodes, joint)| {
        let all: BTreeSet<ReplicaId> = nodes.keys().copied().collect();
        let first: BTreeSet<ReplicaId> = nodes.keys().copied().take(1).collect();
        let configs = if joint { vec![first, all] } else { vec![all] };
        Membership::new(configs, nodes).expect("every voter has an address")
    })
}

fn stored() -> impl Strategy<Value = StoredMembership> {
    (prop::option::of(log_id()), membership()).prop_map(|(at, members)| StoredMembership::new(at, members))
}

fn entry() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| EntryPayload::Normal(Payload(bytes.into()))),
        membership().prop_map(EntryPayload::Membership),
    ];
    (log_id(), payload).prop_map(|(log_id, payload)| RaftEntry { log_id, payload })
}

fn append() -> impl Strategy<Value = AppendEntriesRequest<TypeConfig>> {
    (vote(), prop::option::of(log_id()), prop::collection::vec(entry(), 0..6), prop::option::of(log_id())).prop_map(
        |(vote, prev_log_id, mut entries, leader_commit)| {
            let first = prev_log_id.map_or(0, |prev: LogId| prev.index + 1);
            for (at, entry) in entries.iter_mut().enumerate() {
                entry.log_id.index = first + at as u64;
            }
            AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }
        },
    )
}

fn there_and_back<T: Wire + PartialEq + std::fmt::Debug>(value: &T) {
    let bytes = encode(value);
    assert_eq!(decode::<T>(bytes.clone()).as_ref(), Ok(value));
    // Cut short, every value is garbage: nothing is optional at the end.
    for len in 0..bytes.len().min(300) {
        assert!(decode::<T>(bytes.slice(..len)).is_err(), "{len} of {} bytes", bytes.len());
    }
    let mut longer = BytesMut::from(&bytes[..]);
    longer.put_u8(0);
    assert!(decode::<T>(longer.freeze()).is_err());
    let mut other = BytesMut::from(&bytes[..]);
    other[0] = VERSION + 1;
    assert!(decode::<T>(other.freeze()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn values_come_back(vote in vote(), id in prop::option::of(log_id()), stored in stored(), entry in entry()) {
        there_and_back(&vote);
        there_and_back(&id);
        there_and_back(&entry);
        assert_eq!(encode_entry(&entry), encode(&entry));
        there_and_back(&SnapshotMeta { last_log_id: id, last_membership: stored.clone() });
        there_and_back(&Position { applied: id, membership: stored.clone() });
        if let Some(log_id) = id {
            there_and_back(&PurgeMark { log_id, membership: stored.clone() });
        }
        let meta = SnapshotMeta { last_log_id: id, last_membership: stored };
        there_and_back(&SnapshotHead { vote, meta, asked: true });
        there_and_back(&VoteRequest::<TypeConfig> { vote, last_log_id: id, leadership_transfer: true });
        there_and_back(&VoteResponse::<TypeConfig> { vote, vote_granted: true, last_log_id: id });
        there_and_back(&TransferLeaderRequest::<TypeConfig>::new(vote, ReplicaId::default(), id));
        there_and_back::<TransferLeaderResponse<TypeConfig>>(&Ok(()));
        there_and_back::<TransferLeaderResponse<TypeConfig>>(&Err(TransferLeaderError::LogNotFlushed { expected: id, actual: None }));
        there_and_back::<TransferLeaderResponse<TypeConfig>>(&Err(TransferLeaderError::VoteChanged { expected: vote, actual: vote }));
        there_and_back::<AppendEntriesResponse<TypeConfig>>(&AppendEntriesResponse::PartialSuccess(id));
        there_and_back::<AppendEntriesResponse<TypeConfig>>(&AppendEntriesResponse::HigherVote(vote));
        there_and_back::<AppendEntriesResponse<TypeConfig>>(&AppendEntriesResponse::Conflict);
        there_and_back::<AppendEntriesResponse<TypeConfig>>(&AppendEntriesResponse::Success);
        there_and_back::<StreamAppendResult<TypeConfig>>(&Ok(id));
        there_and_back::<StreamAppendResult<TypeConfig>>(&Err(StreamAppendError::HigherVote(vote)));
        there_and_back(&SnapshotResponse::<TypeConfig>::new(vote));
    }

    #[test]
    fn append_requests_come_back(request in append()) {
        let back: AppendEntriesRequest<TypeConfig> = decode(encode(&request)).expect("what was encoded");
        assert_eq!(format!("{request:?}"), format!("{back:?}"));
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), head in any::<bool>()) {
        let mut bytes = bytes;
        if head {
            bytes.insert(0, VERSION);
        }
        let bytes = Bytes::from(bytes);
        // Whether it decodes is chance; that it neither panics nor takes much memory is not.
        let _ = decode::<AppendEntriesRequest<TypeConfig>>(bytes.clone());
        let _ = decode::<Entry>(bytes.clone());
        let _ = decode::<SnapshotPiece>(bytes.clone());
        let _ = decode::<SnapshotHead>(bytes.clone());
        let _ = decode::<PurgeMark>(bytes.clone());
        let _ = decode::<TransferLeaderResponse<TypeConfig>>(bytes);
    }

    #[test]
    fn flipped_bytes_do_no_harm(request in append(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = encode(&request).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = decode::<AppendEntriesRequest<TypeConfig>>(bytes.into());
    }
}

#[test]
fn pieces_come_back() {
    let record = |key: &'static str, value: &'static str| (Bytes::from(key), Bytes::from(value));
    there_and_back(&SnapshotPiece { records: vec![record("a", "1"), record("", "")] });
    there_and_back(&SnapshotPiece::default());
    there_and_back(&SnapshotEnd { records: 7, sum: 9 });
}

#[test]
fn entries_that_do_not_follow_each_other_are_refused() {
    let at = |index| Entry {
        log_id: LogId::new(LeaderId::new(1, ReplicaId::default()), index),
        payload: EntryPayload::Blank,
    };
    let vote = Vote { leader_id: LeaderId::new(1, ReplicaId::default()), committed: true };
    let prev_log_id = Some(LogId::new(LeaderId::new(1, ReplicaId::default()), 4));
    for entries in [vec![at(6)], vec![at(5), at(7)], vec![at(4)]] {
        let request = AppendEntriesRequest::<TypeConfig> { vote, prev_log_id, entries, leader_commit: None };
        assert!(decode::<AppendEntriesRequest<TypeConfig>>(encode(&request)).is_err());
    }
}

/// Bytes as the first version wrote them: they must stay readable.
#[test]
fn the_first_version_stays_readable() {
    let id = ReplicaId { node: NodeId(2), incarnation: Incarnation(0x0102_0304_0506_0708) };
    let log_id = LogId::new(LeaderId::new(3, id), 9);
    let members = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, Address { addr: "h:1".into() })]))
        .expect("the voter has an address");
    let fixtures: [(Bytes, &str); 5] = [
        (encode(&LeaderId::new(3, id)), "01 0000000000000003 00000002 0102030405060708"),
        (
            encode(&Vote { leader_id: LeaderId::new(3, id), committed: true }),
            "0100000000000000030000000201020304050607080 1",
        ),
        (
            encode(&Entry { log_id, payload: EntryPayload::Normal(Payload(Bytes::from_static(b"xy"))) }),
            "01 0000000000000003 00000002 0102030405060708 0000000000000009 01 00000002 7879",
        ),
        (
            encode(&Position { applied: Some(log_id), membership: StoredMembership::new(None, members.clone()) }),
            "01 01 0000000000000003 00000002 0102030405060708 0000000000000009 00 00000001 00000001 00000002 0102030405060708 \
             00000001 00000002 0102030405060708 00000003 683a31",
        ),
        (
            encode(&PurgeMark { log_id, membership: StoredMembership::new(Some(log_id), members) }),
            "01 0000000000000003 00000002 0102030405060708 0000000000000009 01 0000000000000003 00000002 0102030405060708 \
             0000000000000009 00000001 00000001 00000002 0102030405060708 00000001 00000002 0102030405060708 00000003 683a31",
        ),
    ];
    for (bytes, expected) in fixtures {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
    }
}
