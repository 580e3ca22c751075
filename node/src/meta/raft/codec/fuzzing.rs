//! Doors for tests that feed bytes to the codec. Not part of the interface; see `weft_core::fuzzing`.

use super::*;

/// Everything that the bytes decode as, with the bytes that it encodes to.
pub fn again(bytes: &Bytes) -> Vec<(&'static str, Bytes)> {
    let found = [
        one::<Vote>(bytes),
        one::<LogId>(bytes),
        one::<Entry>(bytes),
        one::<Membership>(bytes),
        one::<StoredMembership>(bytes),
        one::<SnapshotMeta>(bytes),
        one::<AppendEntriesRequest<TypeConfig>>(bytes),
        one::<AppendEntriesResponse<TypeConfig>>(bytes),
        one::<StreamAppendResult<TypeConfig>>(bytes),
        one::<VoteRequest<TypeConfig>>(bytes),
        one::<VoteResponse<TypeConfig>>(bytes),
        one::<TransferLeaderRequest<TypeConfig>>(bytes),
        one::<TransferLeaderResponse<TypeConfig>>(bytes),
        one::<SnapshotResponse<TypeConfig>>(bytes),
        one::<PurgeMark>(bytes),
        one::<Position>(bytes),
        one::<SnapshotHead>(bytes),
        one::<SnapshotPiece>(bytes),
        one::<SnapshotEnd>(bytes),
    ];
    found.into_iter().flatten().collect()
}

fn one<T: Wire>(bytes: &Bytes) -> Option<(&'static str, Bytes)> {
    let value: T = decode(bytes.clone()).ok()?;
    Some((T::WHAT, encode(&value)))
}

/// The bytes of some values, to begin with.
pub fn samples() -> Vec<Bytes> {
    let id = |node| ReplicaId { node: NodeId(node), incarnation: Incarnation(0x0102_0304_0506_0708) };
    let log_id = |index| LogId::new(LeaderId::new(3, id(2)), index);
    let nodes: BTreeMap<ReplicaId, Address> =
        (1..=3).map(|node| (id(node), Address { addr: format!("n{node}:7400") })).collect();
    let voters = vec![BTreeSet::from([id(1), id(2)]), BTreeSet::from([id(1), id(2), id(3)])];
    let members = Membership::new(voters, nodes).expect("every voter has an address");
    let stored = StoredMembership::new(Some(log_id(4)), members.clone());
    let vote = Vote { leader_id: LeaderId::new(3, id(2)), committed: true };
    let meta = SnapshotMeta { last_log_id: Some(log_id(9)), last_membership: stored.clone() };
    let entries = vec![
        Entry { log_id: log_id(5), payload: EntryPayload::Blank },
        Entry { log_id: log_id(6), payload: EntryPayload::Normal(Payload(Bytes::from_static(b"what to do"))) },
        Entry { log_id: log_id(7), payload: EntryPayload::Membership(members) },
    ];
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(log_id(4)),
        entries,
        leader_commit: Some(log_id(4)),
    };
    let records = vec![(Bytes::from_static(b"key"), Bytes::from_static(b"value")), (Bytes::new(), Bytes::new())];
    let lost: TransferLeaderResponse<TypeConfig> =
        Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1)), actual: None });
    vec![
        encode(&vote),
        encode(&append),
        encode(&AppendEntriesResponse::<TypeConfig>::PartialSuccess(Some(log_id(8)))),
        encode::<StreamAppendResult<TypeConfig>>(&Err(StreamAppendError::Conflict(log_id(2)))),
        encode(&VoteRequest::<TypeConfig> { vote, last_log_id: Some(log_id(4)), leadership_transfer: true }),
        encode(&VoteResponse::<TypeConfig> { vote, vote_granted: true, last_log_id: None }),
        encode(&TransferLeaderRequest::<TypeConfig>::new(vote, id(1), Some(log_id(4)))),
        encode(&lost),
        encode(&PurgeMark { log_id: log_id(4), membership: stored.clone() }),
        encode(&Position { applied: Some(log_id(4)), membership: stored }),
        encode(&SnapshotHead { vote, meta, asked: true }),
        encode(&SnapshotPiece { records }),
        encode(&SnapshotEnd { records: 2, sum: 7 }),
    ]
}
