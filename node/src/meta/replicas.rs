//! What the other replicas of a group ask of this one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use weft_core::ids::{GroupId, Incarnation, NodeId, ReplicaId};
use weft_core::refusal::Refusal;
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::raft_server::{Raft, RaftServer};
use weft_proto::pb::{RaftMessage, Replica};
use weft_proto::{PROTOCOL, status};

use super::group::Group;
use super::groups::Groups;
use super::raft::codec::{self, SnapshotEnd, SnapshotHead};
use super::raft::kind;

/// The first message of a stream comes at once.
const FIRST_LIMIT: Duration = Duration::from_secs(5);
/// The next piece of a snapshot comes within this.
const PIECE_LIMIT: Duration = Duration::from_secs(30);

/// Serves the replicas of this node.
#[derive(Clone)]
pub struct RaftService {
    groups: Arc<Groups>,
}

impl RaftService {
    /// Serves all groups of a node.
    pub fn new(groups: Arc<Groups>) -> RaftService {
        RaftService { groups }
    }

    /// The gRPC service, with the message limits of the fabric.
    pub fn server(self) -> RaftServer<RaftService> {
        RaftServer::new(self).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// The sender, if the message is for this life of this node in this site.
    fn check(&self, message: &RaftMessage) -> Result<ReplicaId, Refusal> {
        if message.protocol != PROTOCOL {
            return Err(Refusal::WrongVersion { theirs: message.protocol, ours: PROTOCOL });
        }
        let identity = self.groups.identity();
        if message.site != identity.site.0 {
            let why = format!("this is site {}, not {}", identity.site, message.site);
            return Err(Refusal::WrongRecipient { why });
        }
        let replica = |wire: &Option<Replica>| {
            let wire = wire.as_ref()?;
            Some(ReplicaId { node: NodeId(wire.node), incarnation: Incarnation(wire.incarnation) })
        };
        let to = replica(&message.to).ok_or_else(|| Refusal::Invalid { why: "a message to nobody".into() })?;
        let me = self.groups.me();
        if to != me {
            let why = format!("this is replica {me}, not {to}");
            return Err(Refusal::WrongRecipient { why });
        }
        replica(&message.from).ok_or_else(|| Refusal::Invalid { why: "a message from nobody".into() })
    }

    /// The group a message is about. A leader that sends entries or a snapshot to this very replica means it to be a
    /// member: then the group is opened. A vote is never given by a replica that knows nothing.
    async fn group(&self, message: &RaftMessage) -> Result<Arc<Group>, Refusal> {
        let id = GroupId(message.group);
        match message.kind {
            kind::APPEND | kind::SNAPSHOT_HEAD => self.groups.ensure(id).await,
            _ => self.groups.group(id).ok_or_else(|| Refusal::NotServed { what: format!("group {id}") }),
        }
    }

    fn reply(&self, to: &RaftMessage, body: Bytes) -> RaftMessage {
        RaftMessage {
            protocol: PROTOCOL,
            site: to.site,
            group: to.group,
            from: to.to,
            to: to.from,
            kind: to.kind,
            body,
        }
    }

    async fn answer(&self, mut message: RaftMessage) -> Result<RaftMessage, Refusal> {
        let from = self.check(&message)?;
        let group = self.group(&message).await?;
        let body = std::mem::take(&mut message.body);
        if message.kind == kind::ASK_SNAPSHOT {
            self.send_snapshot(group, from)?;
            return Ok(self.reply(&message, Bytes::new()));
        }
        let body = group.consensus().answer(message.kind, body).await?;
        Ok(self.reply(&message, body))
    }

    /// Sends a member that lost its records a snapshot, in the background.
    fn send_snapshot(&self, group: Arc<Group>, to: ReplicaId) -> Result<(), Refusal> {
        if !group.leading() {
            return Err(Refusal::NotLeader { group: group.id(), leader: group.leader() });
        }
        if !group.consensus().is_member(to) {
            return Err(Refusal::WrongRecipient { why: format!("replica {to} is no member of group {}", group.id()) });
        }
        self.groups.in_background(async move {
            if let Err(refusal) = group.consensus().send_snapshot(to).await {
                tracing::warn!(group = %group.id(), %to, %refusal, "send a snapshot that was asked for");
            }
        });
        Ok(())
    }

    async fn take_snapshot(&self, mut pieces: Streaming<RaftMessage>) -> Result<RaftMessage, Refusal> {
        let head = next(&mut pieces, FIRST_LIMIT).await?;
        self.check(&head)?;
        if head.kind != kind::SNAPSHOT_HEAD {
            return Err(Refusal::Invalid { why: "a snapshot begins with its head".into() });
        }
        let group = self.group(&head).await?;
        let said: SnapshotHead = codec::decode(head.body.clone()).map_err(invalid)?;
        let Some(receiving) = self.groups.receive(group.id()) else {
            return Err(Refusal::Busy { retry_after_ms: 1000 });
        };
        let mut spool = receiving.begin().await.map_err(disk_failed)?;
        loop {
            let piece = next(&mut pieces, PIECE_LIMIT).await?;
            match piece.kind {
                kind::SNAPSHOT_PIECE => spool.add(piece.body).await.map_err(disk_failed)?,
                kind::SNAPSHOT_END => {
                    let end: SnapshotEnd = codec::decode(piece.body).map_err(invalid)?;
                    let spool = spool.finish(end).map_err(disk_failed)?;
                    let body = group.consensus().install(said, spool).await?;
                    return Ok(self.reply(&head, body));
                }
                kind => return Err(Refusal::Unsupported { what: format!("raft message kind {kind} in a snapshot") }),
            }
        }
    }
}

async fn next(messages: &mut Streaming<RaftMessage>, limit: Duration) -> Result<RaftMessage, Refusal> {
    match tokio::time::timeout(limit, messages.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(Refusal::Invalid { why: "the stream ended early".into() }),
        Ok(Err(status)) => Err(status::from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: "the sender fell silent".into() }),
    }
}

fn invalid(error: codec::Garbled) -> Refusal {
    Refusal::Invalid { why: error.to_string() }
}

fn disk_failed(error: std::io::Error) -> Refusal {
    Refusal::DiskFailed { why: error.to_string() }
}

fn refused(refusal: Refusal) -> Status {
    status::to_status(&refusal)
}

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<RaftMessage, Status>> + Send>>;

    async fn append(&self, request: Request<Streaming<RaftMessage>>) -> Result<Response<Self::AppendStream>, Status> {
        let mut messages = request.into_inner();
        let mut first = next(&mut messages, FIRST_LIMIT).await.map_err(refused)?;
        self.check(&first).map_err(refused)?;
        if first.kind != kind::APPEND {
            return Err(refused(Refusal::Unsupported {
                what: format!("raft message kind {} in a stream", first.kind),
            }));
        }
        let group = self.group(&first).await.map_err(refused)?;
        let body = std::mem::take(&mut first.body);
        let about = (first.group, first.kind, first.to);
        let rest = messages
            .take_while(move |message| {
                let same = message.as_ref().is_ok_and(|m| (m.group, m.kind, m.to) == about);
                futures::future::ready(same)
            })
            .filter_map(|message| futures::future::ready(message.ok().map(|message| message.body)));
        let bodies = futures::stream::once(async move { body }).chain(rest);
        let service = self.clone();
        let answers = group.consensus().answer_stream(bodies).map(move |answer| match answer {
            Ok(body) => Ok(service.reply(&first, body)),
            Err(refusal) => Err(refused(refusal)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn call(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        self.answer(request.into_inner()).await.map(Response::new).map_err(refused)
    }

    async fn snapshot(&self, request: Request<Streaming<RaftMessage>>) -> Result<Response<RaftMessage>, Status> {
        self.take_snapshot(request.into_inner()).await.map(Response::new).map_err(refused)
    }
}
