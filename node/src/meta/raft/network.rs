//! What replicas send each other: gRPC messages whose bodies are openraft's requests in our own encoding.

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::oneshot;
use tonic::transport::Channel;
use weft_core::ids::{GroupId, ReplicaId, SiteId};
use weft_core::refusal::Refusal;
use weft_core::view::View;
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::{RaftMessage, Replica, raft_client::RaftClient};
use weft_proto::{PROTOCOL, status};

use super::codec::{self, SnapshotEnd, SnapshotHead, SnapshotPiece, Wire};
use super::states::Image;
use super::types::{Address, Snapshot, TypeConfig, Vote};
use crate::site::map::MapCell;
use crate::site::peers::Peers;

/// What the body of a message is.
pub(crate) mod kind {
    /// A vote request; answered with a vote response.
    pub(crate) const VOTE: u32 = 1;
    /// The same before standing for election.
    pub(crate) const PRE_VOTE: u32 = 2;
    /// An append request; answered with an append response, in a stream with an append answer.
    pub(crate) const APPEND: u32 = 3;
    /// A leader asks its successor to stand; answered with a transfer response.
    pub(crate) const TRANSFER: u32 = 4;
    /// A replica that lost its records asks the leader for them; answered with nothing, the snapshot comes by itself.
    pub(crate) const ASK_SNAPSHOT: u32 = 5;
    /// A snapshot's head, pieces and end; the whole is answered with a snapshot response.
    pub(crate) const SNAPSHOT_HEAD: u32 = 6;
    pub(crate) const SNAPSHOT_PIECE: u32 = 7;
    pub(crate) const SNAPSHOT_END: u32 = 8;
    /// A leader asks for a read whether it still leads, by its leader id; answered with a flag.
    pub(crate) const CONFIRM: u32 = 9;
}

/// Waited before an error is given to openraft, which else opens the next stream at once, for ever.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// A stream with requests out that brings no answer for so long is given up.
const STALL: Duration = Duration::from_secs(2);
/// How long a message with no entries waits for one with some. It only says how far the log is committed, which the next
/// entry says too; followers answer nobody, so they may know it a little later.
const COMMIT_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of records in one piece of a snapshot.
const PIECE_BYTES: usize = 512 << 10;
/// A snapshot of which the receiver takes nothing for so long is given up.
const SNAPSHOT_STALL: Duration = Duration::from_secs(30);
/// Time the receiver may take to install a snapshot it has.
const SNAPSHOT_INSTALL: Duration = Duration::from_secs(600);

/// Who sends, and how members are found.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) site: SiteId,
    pub(crate) group: GroupId,
    pub(crate) me: ReplicaId,
    pub(crate) map: MapCell,
    pub(crate) peers: Peers,
}

impl Network {
    /// The way to a member. `fallback` is used while the site map does not know it.
    pub(crate) fn link(&self, to: ReplicaId, fallback: &str) -> Link {
        Link { network: self.clone(), to, fallback: fallback.to_string() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: ReplicaId, node: &Address) -> Link {
        self.link(target, &node.addr)
    }
}

/// The way to one member of the group.
#[derive(Clone)]
pub(crate) struct Link {
    network: Network,
    to: ReplicaId,
    fallback: String,
}

impl Link {
    fn client(&self) -> Result<RaftClient<Channel>, Refusal> {
        let known = self.network.map.node(self.to.node).filter(|node| node.meta_replica() == self.to);
        let channel = match known {
            Some(node) => self.network.peers.node_at(node.id, &node.addr)?,
            None => self.network.peers.node_at(self.to.node, &self.fallback)?,
        };
        Ok(RaftClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT))
    }

    fn message(&self, kind: u32, body: Bytes) -> RaftMessage {
        RaftMessage {
            protocol: PROTOCOL,
            site: self.network.site.0,
            group: self.network.group.0,
            from: Some(to_wire(self.network.me)),
            to: Some(to_wire(self.to)),
            kind,
            body,
        }
    }

    /// One request, one answer, within `limit`.
    pub(crate) async fn call(&self, kind: u32, body: Bytes, limit: Duration) -> Result<Bytes, Refusal> {
        let mut client = self.client()?;
        match tokio::time::timeout(limit, client.call(self.message(kind, body))).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().body),
            Ok(Err(status)) => Err(status::from_status(&status)),
            Err(_) => Err(Refusal::Unknown { why: format!("replica {} did not answer in time", self.to) }),
        }
    }

    async fn ask<Q: Wire, A: Wire>(
        &self,
        kind: u32,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<TypeConfig>> {
        let reply = self.call(kind, codec::encode(request), option.hard_ttl()).await.map_err(unreachable)?;
        codec::decode(reply).map_err(unreachable)
    }

    async fn stream<S>(&self, input: S, option: &RPCOption) -> Result<AnswerStream, Refusal>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let mut client = self.client()?;
        let sent = Arc::new(AtomicU64::new(0));
        let (link, count) = (self.clone(), sent.clone());
        // The connection may hold on to the requests after the answers were dropped; but openraft locks what they are
        // made from while one is awaited, so the next stream could not begin.
        let (answered, dropped) = oneshot::channel::<()>();
        let out = without_idle_commits(input.take_until(dropped)).map(move |request| {
            count.fetch_add(1, Ordering::Relaxed);
            link.message(kind::APPEND, codec::encode(&request))
        });
        let limit = (option.hard_ttl() * 4).max(Duration::from_millis(500));
        let answers = match tokio::time::timeout(limit, client.append(out)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(status::from_status(&status)),
            Err(_) => return Err(Refusal::Unknown { why: format!("replica {} did not answer in time", self.to) }),
        };
        let state = Answers { answers, sent, received: 0, _answered: answered };
        Ok(Box::pin(futures::stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            match state.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(state))),
                Ok(None) => None,
                Err(refusal) => {
                    tokio::time::sleep(ERROR_PAUSE).await;
                    Some((Err(unreachable(refusal)), None))
                }
            }
        })))
    }

    /// Sends the records of `view` behind `head`, and waits until the receiver has installed them.
    ///
    /// # Errors
    /// The receiver refused, fell silent, or could not be reached; the store failed.
    pub(crate) async fn send_snapshot(
        &self,
        head: SnapshotHead,
        view: Arc<dyn View + Send + Sync>,
    ) -> Result<SnapshotResponse<TypeConfig>, Refusal> {
        let mut client = self.client()?;
        let moved = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(parking_lot::Mutex::new(None));
        let head = self.message(kind::SNAPSHOT_HEAD, codec::encode(&head));
        let pieces = {
            let (link, moved, failed) = (self.clone(), moved.clone(), failed.clone());
            futures::stream::unfold(Some(Cursor::new(view)), move |cursor| {
                moved.fetch_add(1, Ordering::Relaxed);
                let next = cursor.and_then(|mut cursor| match cursor.next() {
                    Ok((kind, body)) => Some((link.message(kind, body), (!cursor.done).then_some(cursor))),
                    Err(error) => {
                        *failed.lock() = Some(error.to_string());
                        None
                    }
                });
                async move { next }
            })
        };
        let call = client.snapshot(futures::stream::once(async move { head }).chain(pieces));
        let mut call = std::pin::pin!(call);
        let (mut last, mut still) = (0, Duration::ZERO);
        let reply = loop {
            match tokio::time::timeout(SNAPSHOT_STALL, &mut call).await {
                Ok(Ok(reply)) => break reply.into_inner().body,
                Ok(Err(status)) => {
                    return Err(match failed.lock().take() {
                        Some(why) => Refusal::DiskFailed { why },
                        None => status::from_status(&status),
                    });
                }
                Err(_) => {
                    let now = moved.load(Ordering::Relaxed);
                    still = if now == last { still + SNAPSHOT_STALL } else { Duration::ZERO };
                    last = now;
                    // The receiver is silent while it installs.
                    if still >= SNAPSHOT_INSTALL {
                        return Err(Refusal::Unknown { why: format!("replica {} takes no snapshot", self.to) });
                    }
                }
            }
        };
        codec::decode(reply).map_err(|error| Refusal::Unknown { why: error.to_string() })
    }
}

/// Leaves out a message without entries when another one follows within [`COMMIT_PAUSE`]. openraft sends one after each
/// commit: under load that is as many messages again, each with its answer. The first message is never held back.
fn without_idle_commits<S>(input: S) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    futures::stream::unfold((input.fuse(), true), |(mut input, first)| async move {
        let mut request = input.next().await?;
        let due = tokio::time::Instant::now() + COMMIT_PAUSE;
        while request.entries.is_empty() && !first {
            match tokio::time::timeout_at(due, input.next()).await {
                Ok(Some(next)) => request = next,
                Ok(None) | Err(_) => break,
            }
        }
        Some((request, (input, false)))
    })
}

fn to_wire(replica: ReplicaId) -> Replica {
    Replica { node: replica.node.0, incarnation: replica.incarnation.0 }
}

fn unreachable(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

type AnswerStream = BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// The answers of a stream, with the count of requests that wait for one.
struct Answers {
    answers: tonic::Streaming<RaftMessage>,
    sent: Arc<AtomicU64>,
    received: u64,
    /// Dropped with this, which ends the requests.
    _answered: oneshot::Sender<()>,
}

impl Answers {
    async fn next(&mut self) -> Result<Option<StreamAppendResult<TypeConfig>>, Refusal> {
        loop {
            let waiting = self.sent.load(Ordering::Relaxed) > self.received;
            match tokio::time::timeout(STALL, self.answers.message()).await {
                Ok(Ok(Some(message))) => {
                    self.received += 1;
                    let answer = codec::decode(message.body);
                    return answer.map(Some).map_err(|error| Refusal::Unknown { why: error.to_string() });
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(status)) => return Err(status::from_status(&status)),
                Err(_) if waiting => return Err(Refusal::Unknown { why: "the follower fell silent".into() }),
                // An idle group sends nothing here; heartbeats go their own way.
                Err(_) => {}
            }
        }
    }
}

/// Walks over the records of a view, a piece at a time.
struct Cursor {
    view: Arc<dyn View + Send + Sync>,
    from: Vec<u8>,
    records: u64,
    sum: crc32fast::Hasher,
    last: bool,
    done: bool,
}

impl Cursor {
    fn new(view: Arc<dyn View + Send + Sync>) -> Cursor {
        Cursor { view, from: Vec::new(), records: 0, sum: crc32fast::Hasher::new(), last: false, done: false }
    }

    /// The next piece, or the end behind the last.
    fn next(&mut self) -> io::Result<(u32, Bytes)> {
        if self.last {
            self.done = true;
            let end = SnapshotEnd { records: self.records, sum: self.sum.clone().finalize() };
            return Ok((kind::SNAPSHOT_END, codec::encode(&end)));
        }
        let mut piece = SnapshotPiece::default();
        let mut bytes = 0;
        self.view
            .scan(&self.from, &[0xff; 64], &mut |key, value| {
                bytes += key.len() + value.len() + 8;
                piece.records.push((Bytes::copy_from_slice(key), value.clone()));
                if bytes < PIECE_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .map_err(io::Error::other)?;
        self.last = bytes < PIECE_BYTES;
        if let Some((key, _)) = piece.records.last() {
            self.from.clear();
            self.from.extend_from_slice(key);
            self.from.push(0);
        }
        self.records += piece.records.len() as u64;
        let body = codec::encode(&piece);
        self.sum.update(&body);
        Ok((kind::SNAPSHOT_PIECE, body))
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::APPEND, &request, &option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as AnswerStream);
            };
            // A heartbeat or a probe is a single request: a call costs less than a stream.
            let second = match input.next().now_or_never() {
                Some(None) => {
                    let last = first.entries.last().map(|entry| entry.log_id).or(first.prev_log_id);
                    let previous = first.prev_log_id;
                    let answer: Result<AppendEntriesResponse<TypeConfig>, _> =
                        self.ask(kind::APPEND, &first, &option).await;
                    return match answer {
                        Ok(AppendEntriesResponse::Conflict) if previous.is_none() => {
                            Err(unreachable("a follower sees a conflict before the first entry"))
                        }
                        Ok(answer) => {
                            let answer = answer.into_stream_result(previous, last);
                            Ok(Box::pin(futures::stream::once(async move { Ok(answer) })) as AnswerStream)
                        }
                        Err(error) => {
                            tokio::time::sleep(ERROR_PAUSE).await;
                            Err(error)
                        }
                    };
                }
                Some(second) => second,
                None => None,
            };
            let input = futures::stream::iter([Some(first), second].into_iter().flatten()).chain(input);
            match self.stream(input, &option).await {
                Ok(answers) => Ok(answers),
                Err(refusal) => {
                    tokio::time::sleep(ERROR_PAUSE).await;
                    Err(unreachable(refusal))
                }
            }
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::VOTE, &request, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::PRE_VOTE, &request, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Image::View(view) = snapshot.snapshot else {
            let error = io::Error::other("this replica has no records to send");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let head = SnapshotHead { vote, meta: snapshot.meta, asked: false };
        tokio::select! { biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(head, view) => match sent {
                Ok(response) => Ok(response),
                Err(refusal) => Err(StreamingError::Unreachable(Unreachable::from_string(refusal))),
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::TRANSFER, &request, &option).await
    }
}
