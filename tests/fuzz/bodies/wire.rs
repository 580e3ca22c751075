//! Messages of clients and other nodes, and their conversion to what is good everywhere.

use weft_core::limits::{MAX_COMMIT_EXTENTS, MAX_FILE, MAX_GIDS, MAX_MAP, MAX_READDIR, MAX_SYMLINK, MAX_XATTR_VALUE};
use weft_core::namespace::op::Op;
use weft_core::namespace::query::Query;
use weft_proto::convert::{
    apply_reply, apply_request, parse_apply, parse_apply_reply, parse_query, parse_query_reply, parse_volume_name,
    query_reply, query_request,
};
use weft_proto::fuzzing::{again, decode, through_bytes};
use weft_proto::pb;

use super::frugal::frugal;

/// Every message comes back as sent; what was converted keeps the limits and comes back as sent too.
pub fn body(data: &[u8]) {
    for (what, bytes) in frugal(data.len(), || again(data)) {
        let twice = again(&bytes);
        let found = twice.iter().find(|(name, _)| *name == what);
        assert_eq!(found.map(|(_, bytes)| bytes), Some(&bytes), "a {what} does not come back");
    }
    frugal(data.len(), || change(data));
    frugal(data.len(), || question(data));
    if let Some(Ok(outcome)) = decode(data).map(parse_apply_reply) {
        let sent: pb::ApplyReply = through_bytes(&apply_reply(&outcome));
        assert_eq!(parse_apply_reply(sent), Ok(outcome));
    }
    if let Some(Ok(answer)) = decode(data).map(parse_query_reply) {
        let sent: pb::QueryReply = through_bytes(&query_reply(&answer));
        assert_eq!(parse_query_reply(sent), Ok(answer));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(name) = parse_volume_name(text.to_string())
    {
        assert!((1..=255).contains(&name.len()) && name.is_ascii());
    }
    status(data);
}

fn change(data: &[u8]) {
    let Some(Ok(parsed)) = decode(data).map(parse_apply) else { return };
    assert!(parsed.envelope.cred.gids.len() <= MAX_GIDS);
    match &parsed.op {
        Op::Symlink { target, .. } => assert!((1..=MAX_SYMLINK).contains(&target.len())),
        Op::Truncate { size, .. } => assert!(*size <= MAX_FILE),
        Op::SetXattr { value, .. } => assert!(value.len() <= MAX_XATTR_VALUE),
        Op::Commit(commit) => {
            assert!(commit.extents.len() <= MAX_COMMIT_EXTENTS && commit.size_at_least <= MAX_FILE);
            assert!(commit.extents.iter().all(|extent| extent.len > 0 && extent.span().end <= MAX_FILE));
        }
        _ => {}
    }
    let sent = apply_request(parsed.envelope.clone(), parsed.group, parsed.volume, &parsed.op);
    assert_eq!(parse_apply(through_bytes(&sent)), Ok(parsed));
}

fn question(data: &[u8]) {
    let Some(Ok(parsed)) = decode(data).map(parse_query) else { return };
    match &parsed.query {
        Query::Readdir { limit, .. } => assert!(*limit <= MAX_READDIR),
        Query::Map { limit, .. } => assert!(*limit <= MAX_MAP),
        _ => {}
    }
    let sent = query_request(parsed.envelope.clone(), parsed.group, parsed.volume, &parsed.query);
    assert_eq!(parse_query(through_bytes(&sent)), Ok(parsed));
}

/// A refusal rides in the details of a status: whatever they are, a refusal comes of it, and goes back.
fn status(data: &[u8]) {
    let code = tonic::Code::from(i32::from(data.first().copied().unwrap_or(0)) % 17);
    let text = String::from_utf8_lossy(data);
    let status = tonic::Status::with_details(code, text, data.to_vec().into());
    let refusal = weft_proto::status::from_status(&status);
    let sent = weft_proto::status::to_status(&refusal);
    // What is too long for the details is cut, once.
    let cut = weft_proto::status::from_status(&sent);
    assert_eq!(weft_proto::status::from_status(&weft_proto::status::to_status(&cut)), cut);
}
