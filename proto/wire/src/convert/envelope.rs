//! What every request carries.

use bytes::Bytes;
use weft_core::entry::{Caller, Cred};
use weft_core::ids::{ClientId, PrincipalId, Seq, SpaceId, TenantId};
use weft_core::limits::MAX_GIDS;
use weft_core::refusal::Refusal;

use super::{invalid, need};
use crate::{PROTOCOL, pb};

/// What every request carries besides what it asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Joins what different processes log about one request; 0: none.
    pub trace_id: u128,
    /// Who asks; 0 before an id was handed out.
    pub client: ClientId,
    /// The session's space; 0 outside sessions.
    pub space: SpaceId,
    /// The request's number in the session; 0 for questions.
    pub seq: Seq,
    /// Replies to lower numbers have arrived.
    pub acked_below: Seq,
    /// How long the caller will wait, in milliseconds; 0: it does not say.
    pub deadline_ms: u32,
    /// On whose behalf.
    pub cred: Cred,
    /// Class of service; 0 is the default one.
    pub qos: u32,
    /// Version of the caller's site map; 0: none.
    pub map_version: u64,
    /// The right to the chunks of the space; empty: none.
    pub capability: Bytes,
}

impl Envelope {
    /// On whose behalf.
    pub fn cred(&self) -> &Cred {
        &self.cred
    }

    /// The session, the place in it and the credentials, as they ride in the log.
    pub fn caller(&self) -> Caller {
        Caller {
            client: self.client,
            space: self.space,
            seq: self.seq,
            acked_below: self.acked_below,
            cred: self.cred.clone(),
        }
    }

    /// As it is sent, under the protocol version spoken here.
    pub fn to_wire(self) -> pb::Envelope {
        pb::Envelope {
            protocol: PROTOCOL,
            trace_id: match self.trace_id {
                0 => Default::default(),
                id => id.to_be_bytes().to_vec().into(),
            },
            client: self.client.0,
            space: self.space.0,
            seq: self.seq.0,
            acked_below: self.acked_below.0,
            deadline_ms: self.deadline_ms,
            principal: self.cred.principal.0,
            uid: self.cred.uid,
            gid: self.cred.gid,
            gids: self.cred.gids,
            pid: self.cred.pid,
            tenant: self.cred.tenant.0,
            umask: self.cred.umask.into(),
            qos: self.qos,
            map_version: self.map_version,
            capability: self.capability,
        }
    }
}

impl From<Envelope> for pb::Envelope {
    fn from(envelope: Envelope) -> pb::Envelope {
        envelope.to_wire()
    }
}

/// Checks and takes a request's envelope.
///
/// # Errors
/// It is missing, of another protocol version, has a trace id that is not 16 bytes or more than [`MAX_GIDS`] groups.
pub fn parse_envelope(wire: Option<pb::Envelope>) -> Result<Envelope, Refusal> {
    let wire = need(wire, "its envelope")?;
    if wire.protocol != PROTOCOL {
        return Err(Refusal::WrongVersion { theirs: wire.protocol, ours: PROTOCOL });
    }
    let trace_id = match &wire.trace_id[..] {
        [] => 0,
        id => u128::from_be_bytes(id.try_into().map_err(|_| invalid("a trace id has 16 bytes"))?),
    };
    if wire.gids.len() > MAX_GIDS {
        return Err(Refusal::TooLarge {
            what: "list of supplementary groups".into(),
            size: wire.gids.len() as u64,
            limit: MAX_GIDS as u64,
        });
    }
    Ok(Envelope {
        trace_id,
        client: ClientId(wire.client),
        space: SpaceId(wire.space),
        seq: Seq(wire.seq),
        acked_below: Seq(wire.acked_below),
        deadline_ms: wire.deadline_ms,
        cred: Cred {
            uid: wire.uid,
            gid: wire.gid,
            gids: wire.gids,
            pid: wire.pid,
            umask: u16::try_from(wire.umask)
                .ok()
                .filter(|mask| *mask <= 0o777)
                .ok_or_else(|| invalid(format!("umask {:o} has other bits than permissions", wire.umask)))?,
            principal: PrincipalId(wire.principal),
            tenant: TenantId(wire.tenant),
        },
        qos: wire.qos,
        map_version: wire.map_version,
        capability: wire.capability,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Envelope {
        Envelope {
            trace_id: 7 << 90,
            client: ClientId(1 << 41),
            space: SpaceId(3),
            seq: Seq(9),
            acked_below: Seq(8),
            deadline_ms: 1500,
            cred: Cred {
                uid: 1000,
                gid: 100,
                gids: vec![4, 24, 27],
                pid: 4711,
                umask: 0o027,
                principal: PrincipalId(5),
                tenant: TenantId(6),
            },
            qos: 1,
            map_version: 12,
            capability: Bytes::from_static(b"right"),
        }
    }

    #[test]
    fn comes_back_as_sent() {
        assert_eq!(parse_envelope(Some(sent().to_wire())), Ok(sent()));
        assert_eq!(parse_envelope(Some(Envelope::default().to_wire())), Ok(Envelope::default()));
    }

    #[test]
    fn a_bad_one_is_refused_with_the_reason() {
        assert!(matches!(parse_envelope(None), Err(Refusal::Invalid { .. })));
        let other = pb::Envelope { protocol: 99, ..sent().to_wire() };
        assert_eq!(parse_envelope(Some(other)), Err(Refusal::WrongVersion { theirs: 99, ours: PROTOCOL }));
        let crowd = pb::Envelope { gids: vec![1; MAX_GIDS + 1], ..sent().to_wire() };
        assert!(matches!(parse_envelope(Some(crowd)), Err(Refusal::TooLarge { size: 1025, limit: 1024, .. })));
        let short = pb::Envelope { trace_id: vec![1, 2].into(), ..sent().to_wire() };
        assert!(matches!(parse_envelope(Some(short)), Err(Refusal::Invalid { .. })));
    }
}
