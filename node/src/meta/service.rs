//! What clients ask of a group's leader.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use weft_core::entry::Command;
use weft_core::ids::{ClientId, GroupId, Ino, VolumeId};
use weft_core::limits::{LEASE_MS, MAX_LEASES};
use weft_core::machine;
use weft_core::namespace::lease;
use weft_core::namespace::op::Op;
use weft_core::refusal::Refusal;
use weft_core::site::Volume;
use weft_proto::convert::{self, Envelope};
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::meta_server::{Meta, MetaServer};
use weft_proto::trust::Who;
use weft_proto::{pb, status};

use super::group::Group;
use super::groups::Groups;
use super::leases::{LISTEN, Wanted};
use super::orphans;
use crate::site::map::MapCell;
use crate::trust::{Keeper, gate};

/// How long a request is worked on where its caller does not say, and at the most.
const LIMIT: Duration = Duration::from_secs(10);
const LIMIT_MAX: Duration = Duration::from_secs(60);

/// A client id that is never given out.
const NOBODY: ClientId = ClientId(u64::MAX);

/// Serves clients of the groups that this node leads.
#[derive(Clone)]
pub struct MetaService {
    groups: Arc<Groups>,
    /// With the site map, which says whose a volume is; `None` in a site in plain text.
    guard: Option<(Arc<Keeper>, MapCell)>,
}

impl MetaService {
    /// Serves all groups of a node.
    pub fn new(groups: Arc<Groups>) -> MetaService {
        MetaService { groups, guard: None }
    }

    /// In a site with certificates: users see volumes of their tenant alone, and get capabilities for their chunks.
    #[must_use]
    pub fn guarded(self, keeper: Option<Arc<Keeper>>, map: MapCell) -> MetaService {
        MetaService { guard: keeper.map(|keeper| (keeper, map)), ..self }
    }

    /// Refuses what is of another tenant as if it were not there.
    fn sees(&self, who: &Who, is_it: impl Fn(&Volume) -> bool, what: impl Display) -> Result<(), Refusal> {
        let (Some((_, map)), Some(user)) = (&self.guard, who.user()) else { return Ok(()) };
        match map.get().volumes.iter().find(|volume| is_it(volume)) {
            Some(volume) if !user.principal.sees(volume.tenant) => Err(Refusal::NoVolume { what: what.to_string() }),
            // What the map does not know yet is the group's to judge, for those who see everything.
            None if user.principal.tenant.0 != 0 => Err(Refusal::NoVolume { what: what.to_string() }),
            _ => Ok(()),
        }
    }

    fn capability(&self, who: &Who, envelope: &Envelope) -> Bytes {
        match (&self.guard, who.user()) {
            (Some((keeper, _)), Some(user)) => keeper.capability(&user.principal, envelope.client, envelope.space),
            _ => Bytes::new(),
        }
    }

    /// The gRPC service, with the message limits of the fabric.
    pub fn server(self) -> MetaServer<MetaService> {
        MetaServer::new(self).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
    }

    fn group(&self, id: GroupId) -> Result<Arc<Group>, Refusal> {
        self.groups.group(id).ok_or_else(|| Refusal::NotServed { what: format!("group {id}") })
    }

    async fn change(&self, who: Who, wire: pb::ApplyRequest) -> Result<pb::ApplyReply, Refusal> {
        let mut parsed = convert::parse_apply(wire)?;
        in_session(&parsed.envelope)?;
        admit_held(&who, &mut parsed.op)?;
        self.sees(&who, |volume| volume.id == parsed.volume, parsed.volume)?;
        if parsed.envelope.seq.0 == 0 {
            return Err(Refusal::Invalid { why: "a change needs a sequence number".into() });
        }
        let group = self.group(parsed.group)?;
        let limit = limit(&parsed.envelope);
        let caller = parsed.envelope.caller();
        let key = (caller.client, caller.space);
        let command = Command::Op { volume: parsed.volume, op: parsed.op };
        if matches!(command, Command::Op { op: Op::Lease { .. }, .. }) {
            // Before it is proposed: a lease must not look as if its holder had been silent for long.
            group.leases().lock().heard(key, Instant::now());
        }
        let outcome = group.propose_within(Some(caller), command, limit).await;
        group.sessions().lock().seen(key, Instant::now());
        Ok(convert::apply_reply(&outcome?))
    }

    async fn ask(&self, who: Who, wire: pb::QueryRequest) -> Result<pb::QueryReply, Refusal> {
        let parsed = convert::parse_query(wire)?;
        self.sees(&who, |volume| volume.id == parsed.volume, parsed.volume)?;
        let group = self.group(parsed.group)?;
        // Who asks without a session holds no lease.
        let client = if parsed.envelope.client.0 == 0 { NOBODY } else { parsed.envelope.client };
        let (volume, cred) = (parsed.volume, parsed.envelope.cred());
        let deadline = Instant::now() + limit(&parsed.envelope);
        loop {
            let ask = group.read(|view| machine::query(view, volume, client, cred, &parsed.query));
            let left = deadline.saturating_duration_since(Instant::now());
            match in_time(left, ask).await? {
                Ok(answer) => return Ok(convert::query_reply(&answer)),
                Err(Refusal::Leased { volume, dir }) => group.take_back(volume, dir, deadline).await?,
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// The session lives, which keeps its leases; answered with those that it does not hold and those wanted back, at
    /// once or when there are any.
    async fn listen(&self, wire: pb::RecallsRequest) -> Result<pb::RecallsReply, Refusal> {
        let came = Instant::now();
        let envelope = convert::parse_envelope(wire.envelope)?;
        in_session(&envelope)?;
        let group = self.group(GroupId(wire.group))?;
        let key = (envelope.client, envelope.space);
        let held: Vec<_> = wire.held.into_iter().map(convert::parse_inode_ref).collect::<Result<_, _>>()?;
        if held.len() > MAX_LEASES {
            let (size, limit) = (held.len() as u64, MAX_LEASES as u64);
            return Err(Refusal::TooLarge { what: "the list of leases".into(), size, limit });
        }
        let limit = limit(&envelope);
        // Before the records are read: from here on nothing is taken for its silence, and what was just before is told.
        group.leases().lock().heard(key, came);
        let ask = group.read(|view| {
            let open = machine::session_of(view, key.0, key.1, envelope.cred.principal)?;
            let leases = lease::lease_list(view)?.into_iter().filter(|lease| lease.client == key.0);
            let own: BTreeSet<_> = leases.map(|lease| (lease.volume, lease.dir)).collect();
            Ok(open.map(|()| own))
        });
        let own = in_time(limit, ask).await??;
        let mut lost: Vec<_> = held.iter().filter(|dir| !own.contains(dir)).copied().collect();
        let until = came + LISTEN.min(limit / 2);
        loop {
            let Wanted { mut recalled, taken, bell } = group.leases().lock().wanted(key);
            lost.extend(taken.into_iter().filter(|dir| held.contains(dir)));
            // What the client does not name it may not know that it holds: it is told all the same, and gives it up. What
            // it gave up since somebody wanted it is settled.
            recalled.retain(|dir| own.contains(dir) && !lost.contains(dir));
            let rings = bell.notified();
            tokio::pin!(rings);
            rings.as_mut().enable();
            let left = until.saturating_duration_since(Instant::now());
            if !recalled.is_empty() || !lost.is_empty() || left.is_zero() || !group.leading() {
                let refs = |list: Vec<(VolumeId, Ino)>| {
                    list.into_iter().map(|(volume, ino)| convert::inode_ref(volume, ino)).collect()
                };
                return Ok(pb::RecallsReply { lease_ms: LEASE_MS, recalled: refs(recalled), lost: refs(lost) });
            }
            let _ = tokio::time::timeout(left, rings).await;
        }
    }

    async fn open(&self, who: Who, wire: pb::OpenSessionRequest) -> Result<pb::OpenSessionReply, Refusal> {
        let envelope = convert::parse_envelope(wire.envelope)?;
        in_session(&envelope)?;
        let group = self.group(GroupId(wire.group))?;
        let (client, space) = (envelope.client, envelope.space);
        self.sees(&who, |volume| volume.space == space, format!("of space {space}"))?;
        let command = match who.user() {
            Some(user) => Command::OwnSession { client, space, owner: user.principal.id },
            None => Command::OpenSession { client, space },
        };
        group.propose_within(None, command, limit(&envelope)).await?;
        group.sessions().lock().seen((envelope.client, envelope.space), Instant::now());
        let keepalive_ms = u32::try_from(self.groups.settings().keepalive_ms).unwrap_or(u32::MAX);
        let capability = self.capability(&who, &envelope);
        Ok(pb::OpenSessionReply { keepalive_ms, capability })
    }

    async fn end(&self, who: Who, wire: pb::EndSessionRequest) -> Result<pb::EndSessionReply, Refusal> {
        let envelope = convert::parse_envelope(wire.envelope)?;
        in_session(&envelope)?;
        let group = self.group(GroupId(wire.group))?;
        if let Some(user) = who.user() {
            // Nobody ends what is another's, or what is not there.
            let (client, space, user) = (envelope.client, envelope.space, user.principal.id);
            let may = group.read(|view| machine::session_of(view, client, space, user));
            in_time(limit(&envelope), may).await??;
        }
        let command = Command::EndSession { client: envelope.client, space: envelope.space };
        group.propose_within(None, command, limit(&envelope)).await?;
        Ok(pb::EndSessionReply {})
    }

    async fn live(&self, who: Who, wire: pb::KeepAliveRequest) -> Result<pb::KeepAliveReply, Refusal> {
        let envelope = convert::parse_envelope(wire.envelope)?;
        in_session(&envelope)?;
        let group = self.group(GroupId(wire.group))?;
        let key = (envelope.client, envelope.space);
        in_time(limit(&envelope), group.read(|view| machine::session_of(view, key.0, key.1, envelope.cred.principal)))
            .await??;
        let not_open: Vec<_> = wire.not_open.iter().map(|at| (VolumeId(at.volume), Ino(at.ino))).collect();
        let asked = {
            let mut sessions = group.sessions().lock();
            sessions.named_below(key, wire.named_below);
            sessions.keep_alive(key, Instant::now(), &not_open)
        };
        let asked = asked.into_iter().map(|(volume, ino)| pb::InodeRef { volume: volume.0, ino: ino.0 }).collect();
        let capability = self.capability(&who, &envelope);
        Ok(pb::KeepAliveReply { asked, capability })
    }
}

/// Does what a request asks, on the credentials that its sender may have.
async fn admitted<Q, A, F: Future<Output = Result<A, Refusal>>>(
    request: Request<Q>,
    envelope: impl Fn(&mut Q) -> &mut Option<pb::Envelope>,
    work: impl FnOnce(Who, Q) -> F,
) -> Result<A, Refusal> {
    let who = gate::who(&request);
    let mut wire = request.into_inner();
    gate::admit(&who, envelope(&mut wire))?;
    work(who, wire).await
}

/// Held-back changes carry credentials of their own.
fn admit_held(who: &Who, op: &mut Op) -> Result<(), Refusal> {
    if let (Some(user), Op::Held { items, .. }) = (who.user(), op) {
        for item in items {
            item.cred = user.principal.speak(&item.cred)?;
        }
    }
    Ok(())
}

fn in_session(envelope: &Envelope) -> Result<(), Refusal> {
    if envelope.client.0 == 0 || envelope.space.0 == 0 {
        return Err(Refusal::Invalid { why: "this needs a session: a client id and a space".into() });
    }
    Ok(())
}

fn limit(envelope: &Envelope) -> Duration {
    match envelope.deadline_ms {
        0 => LIMIT,
        ms => Duration::from_millis(u64::from(ms)).min(LIMIT_MAX),
    }
}

/// A question that takes too long is asked again, perhaps elsewhere.
async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::Unknown { why: "the question was not answered in time".into() }),
    }
}

fn answer<T>(result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    match result {
        Ok(reply) => Ok(Response::new(reply)),
        Err(refusal) => Err(status::to_status(&refusal)),
    }
}

#[tonic::async_trait]
impl Meta for MetaService {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyReply>, Status> {
        answer(admitted(request, |wire| &mut wire.envelope, |who, wire| self.change(who, wire)).await)
    }

    async fn query(&self, request: Request<pb::QueryRequest>) -> Result<Response<pb::QueryReply>, Status> {
        answer(admitted(request, |wire| &mut wire.envelope, |who, wire| self.ask(who, wire)).await)
    }

    async fn open_session(
        &self,
        request: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionReply>, Status> {
        answer(admitted(request, |wire| &mut wire.envelope, |who, wire| self.open(who, wire)).await)
    }

    async fn end_session(
        &self,
        request: Request<pb::EndSessionRequest>,
    ) -> Result<Response<pb::EndSessionReply>, Status> {
        answer(admitted(request, |wire| &mut wire.envelope, |who, wire| self.end(who, wire)).await)
    }

    async fn keep_alive(&self, request: Request<pb::KeepAliveRequest>) -> Result<Response<pb::KeepAliveReply>, Status> {
        answer(admitted(request, |wire| &mut wire.envelope, |who, wire| self.live(who, wire)).await)
    }

    async fn recalls(&self, request: Request<pb::RecallsRequest>) -> Result<Response<pb::RecallsReply>, Status> {
        answer(admitted(request, |wire| &mut wire.envelope, |_, wire| self.listen(wire)).await)
    }

    async fn garbage(&self, request: Request<pb::GarbageRequest>) -> Result<Response<pb::GarbageReply>, Status> {
        let wire = request.into_inner();
        let asked = async { orphans::answer(self.group(GroupId(wire.group))?, wire).await };
        answer(asked.await)
    }
}
