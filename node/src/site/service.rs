//! The site service: the map and this node's own status from any node, all else from the leader of the system group.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tonic::{Request, Response, Status};
use weft_core::codec;
use weft_core::ids::{ClientId, Incarnation, NodeId, PgEpoch, PgId, ReplicaId, SiteId, VolumeId};
use weft_core::limits::MAX_NAME;
use weft_core::refusal::Refusal;
use weft_core::site::{Labels, NodeJoin, SiteCommand, SiteMap, trust};
use weft_proto::convert::{Envelope, parse_envelope};
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb;
use weft_proto::pb::site_server::{Site, SiteServer};
use weft_proto::status;

use super::beats::Beat;
use super::heart::Standing;
use super::lead::Lead;
use super::map::MapCell;
use super::route::{Ask, PASSED, Route};
use crate::meta::Group;
use crate::settings::{check_addr, check_label};
use crate::trust::{Keeper, desk, gate};

/// How long a request that names no deadline is worked on, and the longest any is.
const USUAL_DEADLINE: Duration = Duration::from_secs(5);
const LONGEST_DEADLINE: Duration = Duration::from_secs(30);

/// Answers what others ask about the site. Cloning shares it.
#[derive(Clone)]
pub struct SiteService {
    pub(crate) route: Arc<Route>,
    pub(crate) lead: Arc<Lead>,
    pub(crate) map: MapCell,
    pub(crate) standing: Arc<Standing>,
    /// `None` in a site in plain text.
    pub(crate) keeper: Option<Arc<Keeper>>,
}

impl SiteService {
    /// A client id for this node itself, wherever the system group is led.
    pub(crate) async fn client_id(&self) -> Result<ClientId, Refusal> {
        let envelope = Envelope { deadline_ms: USUAL_DEADLINE.as_millis() as u32, ..Envelope::default() };
        let request = pb::ClientIdsRequest { envelope: Some(envelope.to_wire()), count: 1 };
        match tokio::time::timeout(USUAL_DEADLINE, self.client_ids(Request::new(request))).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                Ok(ClientId::new(SiteId(reply.site), reply.first))
            }
            Ok(Err(status)) => Err(status::from_status(&status)),
            Err(_) => Err(Refusal::Unknown { why: "no client id was given out in time".into() }),
        }
    }
}

/// A request with an envelope.
trait Enveloped: Clone + Send + Sync + 'static {
    fn envelope(&self) -> Option<pb::Envelope>;
    fn envelope_mut(&mut self) -> &mut Option<pb::Envelope>;
}

macro_rules! enveloped {
    ($($request:ident),*) => {
        $(impl Enveloped for pb::$request {
            fn envelope(&self) -> Option<pb::Envelope> {
                self.envelope.clone()
            }
            fn envelope_mut(&mut self) -> &mut Option<pb::Envelope> {
                &mut self.envelope
            }
        })*
    };
}
enveloped!(
    MapRequest,
    JoinRequest,
    HeartbeatRequest,
    CreateVolumeRequest,
    DeleteVolumeRequest,
    ClientIdsRequest,
    NodeStatusRequest,
    DrainNodeRequest,
    RemoveNodeRequest,
    TrustRequest,
    RenewRequest
);

/// How the leader answers.
type Here<Q, A> = for<'a> fn(&'a Lead, &'a Group, Envelope, Q) -> BoxFuture<'a, Result<A, Refusal>>;

impl SiteService {
    /// The gRPC service, with the message limits of the fabric.
    pub fn server(self) -> SiteServer<SiteService> {
        SiteServer::new(self).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// Answers here if this node leads the system group, else asks who does; a request that was passed on already is
    /// told who.
    async fn at_leader<Q: Enveloped, A>(
        &self,
        request: Request<Q>,
        here: Here<Q, A>,
        there: Ask<Q, A>,
    ) -> Result<Response<A>, Status> {
        let passed = request.metadata().contains_key(PASSED);
        let who = gate::who(&request);
        let mut question = request.into_inner();
        let answer = async {
            // Before it is passed on: who hears it next sees only this node.
            gate::admit(&who, question.envelope_mut())?;
            let envelope = parse_envelope(question.envelope())?;
            let time = deadline(&envelope);
            if let Some(group) = self.route.led() {
                match here(&self.lead, &group, envelope, question.clone()).await {
                    Err(Refusal::NotLeader { .. }) if !passed => {}
                    answer => return answer,
                }
            }
            if passed {
                return Err(self.route.not_leader());
            }
            self.route.ask(time, &question, there).await
        };
        answer.await.map(Response::new).map_err(|refusal| status::to_status(&refusal))
    }
}

fn deadline(envelope: &Envelope) -> Duration {
    match envelope.deadline_ms {
        0 => USUAL_DEADLINE,
        ms => Duration::from_millis(u64::from(ms)).min(LONGEST_DEADLINE),
    }
}

/// A node says such things of itself alone; what another node passes on, that one has looked at.
fn speaks_for_itself<T>(request: &Request<T>, node: u32, incarnation: u64) -> Result<(), Status> {
    let of = ReplicaId { node: NodeId(node), incarnation: Incarnation(incarnation) };
    match gate::who(request).node() {
        Some(name) if name.replica != of && !request.metadata().contains_key(PASSED) => {
            let why = format!("{} speaks for {of}", name.replica);
            Err(status::to_status(&Refusal::NotTrusted { why }))
        }
        _ => Ok(()),
    }
}

/// The map's bytes if it is newer.
fn newer(map: &SiteMap, have: u64) -> bytes::Bytes {
    if map.version > have { codec::encode_sitemap(map) } else { bytes::Bytes::new() }
}

#[tonic::async_trait]
impl Site for SiteService {
    async fn map(&self, request: Request<pb::MapRequest>) -> Result<Response<pb::MapReply>, Status> {
        let who = gate::who(&request);
        let request = request.into_inner();
        parse_envelope(request.envelope).map_err(|refusal| status::to_status(&refusal))?;
        let mut map = self.map.get();
        if let Some(user) = who.user().filter(|user| user.principal.tenant.0 != 0) {
            let mut seen = SiteMap::clone(&map);
            seen.volumes.retain(|volume| user.principal.sees(volume.tenant));
            map = Arc::new(seen);
        }
        if map.version == 0 {
            // Nobody has told this node yet: it was just started.
            return Err(status::to_status(&Refusal::Busy { retry_after_ms: 200 }));
        }
        Ok(Response::new(pb::MapReply { map: newer(&map, request.have_version) }))
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinReply>, Status> {
        self.at_leader(request, join, |mut to, request| Box::pin(async move { to.join(request).await })).await
    }

    async fn heartbeat(&self, request: Request<pb::HeartbeatRequest>) -> Result<Response<pb::HeartbeatReply>, Status> {
        speaks_for_itself(&request, request.get_ref().node, request.get_ref().incarnation)?;
        self.at_leader(request, heartbeat, |mut to, request| Box::pin(async move { to.heartbeat(request).await })).await
    }

    async fn create_volume(
        &self,
        request: Request<pb::CreateVolumeRequest>,
    ) -> Result<Response<pb::CreateVolumeReply>, Status> {
        self.at_leader(request, create_volume, |mut to, request| {
            Box::pin(async move { to.create_volume(request).await })
        })
        .await
    }

    async fn delete_volume(
        &self,
        request: Request<pb::DeleteVolumeRequest>,
    ) -> Result<Response<pb::DeleteVolumeReply>, Status> {
        self.at_leader(request, delete_volume, |mut to, request| {
            Box::pin(async move { to.delete_volume(request).await })
        })
        .await
    }

    async fn client_ids(&self, request: Request<pb::ClientIdsRequest>) -> Result<Response<pb::ClientIdsReply>, Status> {
        self.at_leader(request, client_ids, |mut to, request| Box::pin(async move { to.client_ids(request).await }))
            .await
    }

    async fn drain_node(&self, request: Request<pb::DrainNodeRequest>) -> Result<Response<pb::DrainNodeReply>, Status> {
        self.at_leader(request, drain_node, |mut to, request| Box::pin(async move { to.drain_node(request).await }))
            .await
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeReply>, Status> {
        self.at_leader(request, remove_node, |mut to, request| Box::pin(async move { to.remove_node(request).await }))
            .await
    }

    async fn node_status(
        &self,
        request: Request<pb::NodeStatusRequest>,
    ) -> Result<Response<pb::NodeStatusReply>, Status> {
        parse_envelope(request.into_inner().envelope).map_err(|refusal| status::to_status(&refusal))?;
        let mut report = self.standing.report().await;
        report.certificate_until = self.keeper.as_ref().map_or(0, |keeper| keeper.until());
        Ok(Response::new(report))
    }

    async fn whoami(&self, request: Request<pb::WhoamiRequest>) -> Result<Response<pb::WhoamiReply>, Status> {
        let who = gate::who(&request);
        parse_envelope(request.into_inner().envelope).map_err(|refusal| status::to_status(&refusal))?;
        let name = match (who.user(), who.node()) {
            (Some(user), _) => user.principal.name.clone(),
            (None, Some(node)) => format!("node {}", node.replica.node),
            (None, None) => String::new(),
        };
        let principal = who.user().map(|user| desk::principal_to_wire(&user.principal));
        Ok(Response::new(pb::WhoamiReply { name, site: self.standing.identity.site.0, principal }))
    }

    async fn trust(&self, request: Request<pb::TrustRequest>) -> Result<Response<pb::TrustReply>, Status> {
        self.at_leader(request, desk::trust, |mut to, request| Box::pin(async move { to.trust(request).await })).await
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewReply>, Status> {
        speaks_for_itself(&request, request.get_ref().node, request.get_ref().incarnation)?;
        self.at_leader(request, desk::renew, |mut to, request| Box::pin(async move { to.renew(request).await })).await
    }
}

fn join<'a>(
    lead: &'a Lead,
    group: &'a Group,
    _: Envelope,
    request: pb::JoinRequest,
) -> BoxFuture<'a, Result<pb::JoinReply, Refusal>> {
    Box::pin(async move {
        check_addr(&request.addr).map_err(|why| Refusal::Invalid { why })?;
        if !request.meta && !request.chunk {
            return Err(Refusal::Invalid { why: "a node needs a role: meta, chunk or both".into() });
        }
        let join = NodeJoin {
            incarnation: Incarnation(request.incarnation),
            addr: request.addr.clone(),
            meta: request.meta,
            chunk: request.chunk,
        };
        let certified = desk::check_token(lead, group, &request).await?;
        let (node, site, site_name) = lead.join(group, join).await?;
        let certificate = match certified {
            true => Some(desk::certify_joined(lead, group, node, site, &request).await?),
            false => None,
        };
        Ok(pb::JoinReply { node: node.0, site: site.0, site_name, certificate })
    })
}

fn heartbeat<'a>(
    lead: &'a Lead,
    group: &'a Group,
    _: Envelope,
    request: pb::HeartbeatRequest,
) -> BoxFuture<'a, Result<pb::HeartbeatReply, Refusal>> {
    Box::pin(async move {
        check_addr(&request.addr).map_err(|why| Refusal::Invalid { why })?;
        if request.complete.len() != request.complete_epochs.len() {
            return Err(Refusal::Invalid { why: "a complete placement group comes with its epoch".into() });
        }
        let labels = Labels { host: request.host, rack: request.rack, zone: request.zone };
        for label in [&labels.host, &labels.rack, &labels.zone] {
            check_label(label).map_err(|why| Refusal::Invalid { why: format!("label {why}") })?;
        }
        let from = ReplicaId { node: NodeId(request.node), incarnation: Incarnation(request.incarnation) };
        let epochs = request.complete_epochs.into_iter().map(PgEpoch);
        let beat = Beat {
            addr: request.addr,
            full: request.full,
            complete: request.complete.into_iter().map(PgId).zip(epochs).collect(),
            attached: request.attached.into_iter().map(VolumeId).collect(),
            dropped: request.dropped.into_iter().map(VolumeId).collect(),
            adopted: request.adopted_map,
            labels,
            total_bytes: request.total_bytes,
            free_bytes: request.free_bytes,
            lost_logs: request.lost_logs,
        };
        let granted = lead.heartbeat(group, from, beat).await?;
        let lease_ms = u32::try_from(granted.lease.as_millis()).unwrap_or(u32::MAX);
        let failed = |error: weft_core::view::ViewError| Refusal::DiskFailed { why: error.to_string() };
        let news = trust::news(&*group.local_view()?).map_err(failed)?;
        let trust = if news.version > request.have_trust { codec::encode_trust(&news) } else { bytes::Bytes::new() };
        Ok(pb::HeartbeatReply { lease_ms, map: newer(&granted.map, request.have_map), trust })
    })
}

fn create_volume<'a>(
    lead: &'a Lead,
    group: &'a Group,
    envelope: Envelope,
    request: pb::CreateVolumeRequest,
) -> BoxFuture<'a, Result<pb::CreateVolumeReply, Refusal>> {
    Box::pin(async move {
        check_volume_name(&request.name)?;
        let replication = u8::try_from(request.replication).unwrap_or(u8::MAX);
        let tenant = envelope.cred.tenant;
        let volume = lead.create_volume(group, request.name, replication, request.token, tenant).await?;
        Ok(pb::CreateVolumeReply {
            volume: volume.id.0,
            space: volume.space.0,
            slot: volume.slot.0,
            group: volume.group.0,
        })
    })
}

fn delete_volume<'a>(
    lead: &'a Lead,
    group: &'a Group,
    _: Envelope,
    request: pb::DeleteVolumeRequest,
) -> BoxFuture<'a, Result<pb::DeleteVolumeReply, Refusal>> {
    Box::pin(async move {
        lead.propose(group, SiteCommand::DeleteVolume { volume: VolumeId(request.volume) }).await?;
        Ok(pb::DeleteVolumeReply {})
    })
}

/// A volume's name is one word of letters that print, so that it can stand in a command line.
fn check_volume_name(name: &str) -> Result<(), Refusal> {
    if name.len() > MAX_NAME {
        return Err(Refusal::TooLarge { what: "volume name".into(), size: name.len() as u64, limit: MAX_NAME as u64 });
    }
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':') {
        return Err(Refusal::Invalid { why: "a volume's name has no spaces, '/' or ':' and is not empty".into() });
    }
    Ok(())
}

fn client_ids<'a>(
    lead: &'a Lead,
    group: &'a Group,
    _: Envelope,
    request: pb::ClientIdsRequest,
) -> BoxFuture<'a, Result<pb::ClientIdsReply, Refusal>> {
    Box::pin(async move {
        let (site, first, count) = lead.client_ids(group, request.count).await?;
        Ok(pb::ClientIdsReply { site: site.0, first, count })
    })
}

fn drain_node<'a>(
    lead: &'a Lead,
    group: &'a Group,
    _: Envelope,
    request: pb::DrainNodeRequest,
) -> BoxFuture<'a, Result<pb::DrainNodeReply, Refusal>> {
    Box::pin(async move {
        let map = lead.drain_node(group, NodeId(request.node), request.on).await?;
        Ok(pb::DrainNodeReply { map: newer(&map, 0) })
    })
}

fn remove_node<'a>(
    lead: &'a Lead,
    group: &'a Group,
    _: Envelope,
    request: pb::RemoveNodeRequest,
) -> BoxFuture<'a, Result<pb::RemoveNodeReply, Refusal>> {
    Box::pin(async move {
        let map = lead.remove_node(group, NodeId(request.node), request.force).await?;
        Ok(pb::RemoveNodeReply { map: newer(&map, 0) })
    })
}
