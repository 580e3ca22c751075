//! Refusals as gRPC statuses and back: one table.
//!
//! The code is for strangers and proxies; the exact refusal rides in the details, encoded by weft-core. For clients in
//! other languages three trailers say what matters most as plain text: [`ERRNO`], [`LEADER`], [`RETRY_AFTER`].

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use weft_core::codec;
use weft_core::limits::MAX_MESSAGE;
use weft_core::refusal::Refusal;

/// Trailer with the Linux errno of the refusal.
pub const ERRNO: &str = "weft-errno";
/// Trailer with the id of the node that leads, where that is known and the asked one does not.
pub const LEADER: &str = "weft-leader";
/// Trailer with the milliseconds after which to try again.
pub const RETRY_AFTER: &str = "weft-retry-after-ms";

/// Longer details might not fit into the headers that a peer accepts.
const MAX_DETAILS: usize = 2048;
const MAX_TEXT: usize = 512;
/// When a peer or a proxy pushes back without saying for how long.
const RETRY_AFTER_MS: u32 = 100;

/// A refusal as it is sent.
pub fn to_status(refusal: &Refusal) -> Status {
    let details = codec::encode_refusal(refusal);
    if details.len() > MAX_DETAILS {
        return to_status(&Refusal::Invalid { why: clip(&refusal.to_string(), MAX_TEXT).to_string() });
    }
    let text = refusal.to_string();
    Status::with_details_and_metadata(code(refusal), clip(&text, MAX_TEXT), details, trailers(refusal))
}

/// The refusal that a status stands for. What did not come from Weft itself, such as a broken connection, leaves open
/// what happened and is [`Refusal::Unknown`]; a push back without details is [`Refusal::Busy`].
pub fn from_status(status: &Status) -> Refusal {
    if !status.details().is_empty()
        && let Ok(refusal) = codec::decode_refusal(status.details())
    {
        return refusal;
    }
    let text = || {
        let message = clip(status.message(), MAX_TEXT);
        if message.is_empty() { format!("{:?}", status.code()) } else { format!("{:?}: {message}", status.code()) }
    };
    match status.code() {
        Code::ResourceExhausted => Refusal::Busy { retry_after_ms: RETRY_AFTER_MS },
        // tonic's answer to a message above the limit: it was not even decoded.
        Code::OutOfRange => Refusal::TooLarge {
            what: format!("message ({})", clip(status.message(), MAX_TEXT)),
            size: MAX_MESSAGE as u64 + 1,
            limit: MAX_MESSAGE as u64,
        },
        Code::Unimplemented => Refusal::NotServed { what: text() },
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => Refusal::Unknown { why: text() },
    }
}

/// The table.
fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NoEntry
        | Refusal::NoInode { .. }
        | Refusal::NoXattr
        | Refusal::NoVolume { .. }
        | Refusal::NoSlot { .. }
        | Refusal::NoChunk => Code::NotFound,
        Refusal::Exists { .. } | Refusal::XattrExists | Refusal::VolumeExists { .. } => Code::AlreadyExists,
        Refusal::NotDirectory { .. }
        | Refusal::IsDirectory { .. }
        | Refusal::NotEmpty { .. }
        | Refusal::Loop { .. }
        | Refusal::TooDeep
        | Refusal::TooManyLinks { .. }
        | Refusal::TooManyXattrs { .. }
        | Refusal::CrossVolume
        | Refusal::InUse { .. }
        | Refusal::SessionEnded { .. }
        | Refusal::NoSession { .. }
        | Refusal::NoLease { .. }
        | Refusal::SeqTooLow { .. }
        | Refusal::WrongVersion { .. }
        | Refusal::WrongRecipient { .. } => Code::FailedPrecondition,
        Refusal::NameTooLong { .. }
        | Refusal::BadName
        | Refusal::Invalid { .. }
        | Refusal::FileTooBig { .. }
        | Refusal::XattrNameTooLong { .. }
        | Refusal::XattrTooBig { .. }
        | Refusal::TooLarge { .. } => Code::InvalidArgument,
        Refusal::Denied | Refusal::NotPermitted | Refusal::ChunkNotYours { .. } => Code::PermissionDenied,
        Refusal::NotTrusted { .. } => Code::Unauthenticated,
        Refusal::Unsupported { .. } => Code::Unimplemented,
        Refusal::QuotaExceeded | Refusal::NoSpace { .. } | Refusal::WindowFull { .. } | Refusal::Busy { .. } => {
            Code::ResourceExhausted
        }
        Refusal::CutPending { .. } | Refusal::Leased { .. } | Refusal::StalePlacement { .. } => Code::Aborted,
        Refusal::NotLeader { .. } | Refusal::NotServed { .. } | Refusal::MayNotAcknowledge { .. } => Code::Unavailable,
        Refusal::Unknown { .. } => Code::Unknown,
        Refusal::BadSum { .. } => Code::DataLoss,
        Refusal::DiskFailed { .. } => Code::Internal,
    }
}

fn trailers(refusal: &Refusal) -> MetadataMap {
    let mut trailers = MetadataMap::new();
    trailers.insert(ERRNO, MetadataValue::from(refusal.errno()));
    match refusal {
        Refusal::NotLeader { leader: Some(leader), .. } => {
            trailers.insert(LEADER, MetadataValue::from(leader.0));
        }
        Refusal::Busy { retry_after_ms } => {
            trailers.insert(RETRY_AFTER, MetadataValue::from(*retry_after_ms));
        }
        _ => {}
    }
    trailers
}

fn clip(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::ids::{GroupId, Ino, NodeId, PgEpoch, PgId, VolumeId};

    fn some() -> Vec<Refusal> {
        vec![
            Refusal::NoEntry,
            Refusal::NoInode { volume: VolumeId(1), ino: Ino(2) },
            Refusal::Invalid { why: "grün\nor \"so\"".into() },
            Refusal::NotLeader { group: GroupId(1), leader: Some(NodeId(3)) },
            Refusal::NotLeader { group: GroupId(1), leader: None },
            Refusal::Busy { retry_after_ms: 250 },
            Refusal::Unknown { why: "lost".into() },
            Refusal::StalePlacement { pg: PgId(1), epoch: PgEpoch(2) },
            Refusal::DiskFailed { why: "EIO".into() },
        ]
    }

    #[test]
    fn a_refusal_comes_back_whole() {
        for refusal in some() {
            let status = to_status(&refusal);
            assert_eq!(status.message(), refusal.to_string());
            assert_eq!(from_status(&status), refusal);
            // As it really goes: through the trailers of a response.
            let headers = status.into_http::<()>().into_parts().0.headers;
            let read = Status::from_header_map(&headers).expect("a status");
            assert_eq!(from_status(&read), refusal);
        }
    }

    #[test]
    fn strangers_read_what_matters_from_the_trailers() {
        let trailer = |refusal: &Refusal, key: &str| {
            to_status(refusal).metadata().get(key).map(|value| value.to_str().expect("plain text").to_string())
        };
        assert_eq!(trailer(&Refusal::NoEntry, ERRNO).as_deref(), Some("2"));
        let elsewhere = Refusal::NotLeader { group: GroupId(1), leader: Some(NodeId(3)) };
        assert_eq!(trailer(&elsewhere, LEADER).as_deref(), Some("3"));
        assert_eq!(trailer(&Refusal::Busy { retry_after_ms: 250 }, RETRY_AFTER).as_deref(), Some("250"));
    }

    #[test]
    fn what_weft_did_not_say_is_unknown() {
        for code in [Code::Unavailable, Code::NotFound, Code::Internal, Code::Cancelled, Code::PermissionDenied] {
            assert!(matches!(from_status(&Status::new(code, "proxy says so")), Refusal::Unknown { .. }), "{code:?}");
        }
        let garbled = Status::with_details(Code::NotFound, "hm", vec![0xff; 5].into());
        assert!(matches!(from_status(&garbled), Refusal::Unknown { .. }));
        assert!(matches!(from_status(&Status::resource_exhausted("")), Refusal::Busy { .. }));
        assert!(matches!(from_status(&Status::out_of_range("too long")), Refusal::TooLarge { .. }));
        assert!(matches!(from_status(&Status::unimplemented("")), Refusal::NotServed { .. }));
    }

    #[test]
    fn an_endless_reason_is_cut() {
        let status = to_status(&Refusal::NoVolume { what: "ü".repeat(1 << 20) });
        assert!(status.message().len() <= MAX_TEXT + 32 && status.details().len() <= MAX_DETAILS);
        assert!(matches!(from_status(&status), Refusal::Invalid { .. }));
    }
}
