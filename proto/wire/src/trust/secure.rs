//! TLS around the links of the network seam.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Sleep;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::keys::Trust;
use super::names::Name;
use super::verify::Distrust;
use super::{Peer, Who, Whom};
use crate::link::{Accept, Dial, Link};

/// Nobody looks at it: certificates name nodes and users of Weft, not hosts.
const SERVER_NAME: &str = "weft.invalid";
/// Addresses of which the last failure is remembered; when there are more, all are forgotten.
const REMEMBERED: usize = 1024;

/// Opens connections over TLS.
pub struct SecureDial {
    inner: Arc<dyn Dial>,
    trust: Trust,
    /// What was said of each address last, so that it is not said again and again.
    said: Mutex<BTreeMap<String, String>>,
}

impl SecureDial {
    /// TLS over the links of `inner`.
    pub fn new(inner: Arc<dyn Dial>, trust: Trust) -> SecureDial {
        SecureDial { inner, trust, said: Mutex::default() }
    }

    async fn connect(&self, addr: &str, whom: Whom) -> io::Result<Link> {
        let link = self.inner.dial(addr).await?;
        let state = self.trust.state();
        let server = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let distrusted = |why: Distrust| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let stream = TlsConnector::from(state.client.clone())
            .connect(server, link)
            .await
            .map_err(|error| distrusted(Distrust::Handshake(explain(&error))))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let name = self.trust.judge(&state, chain).map_err(distrusted)?;
        match (&name, whom) {
            (Name::Node(node), Whom::Node(expected)) if node.replica.node != expected => {
                Err(distrusted(Distrust::WrongNode { found: node.replica.node, expected }))
            }
            (Name::User(_), _) => Err(distrusted(Distrust::NotANode { whom: name.short() })),
            (Name::Node(_), _) => Ok(Link::new(stream).with_peer(Peer { who: Who::Known(Arc::new(name)), from: None })),
        }
    }

    fn note(&self, addr: &str, failure: Option<String>) {
        let mut said = self.said.lock();
        match failure {
            None => drop(said.remove(addr)),
            Some(why) => {
                if said.get(addr) != Some(&why) {
                    tracing::warn!(addr, why, "connect securely");
                    if said.len() >= REMEMBERED {
                        said.clear();
                    }
                    said.insert(addr.to_string(), why);
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl Dial for SecureDial {
    async fn dial(&self, addr: &str) -> io::Result<Link> {
        self.dial_to(addr, Whom::AnyNode).await
    }

    async fn dial_to(&self, addr: &str, whom: Whom) -> io::Result<Link> {
        let result = self.connect(addr, whom).await;
        let failure = result.as_ref().err().filter(|error| error.kind() == io::ErrorKind::PermissionDenied);
        self.note(addr, failure.map(io::Error::to_string));
        result
    }
}

/// What a failed handshake means, in words.
fn explain(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "it closed the connection during the TLS handshake".into();
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::General(why)) => why.clone(),
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS: is it a site in plain text (weft dev)?".into()
        }
        Some(rustls::Error::AlertReceived(alert)) => format!("it refused the TLS handshake: {alert:?}"),
        _ => error.to_string(),
    }
}

/// Hears of peers that are not let in.
pub trait Doorman: Send + Sync + 'static {
    /// A peer is not believed, or could not finish a handshake.
    fn refused(&self, from: Option<SocketAddr>, why: &Distrust);
    /// There are too many connections: a new one was closed at once.
    fn crowded(&self, from: Option<SocketAddr>);
}

/// How many connections there may be, and how long they may take to say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of those who are believed.
    pub connections: usize,
    /// Handshakes under way; when there are more, the oldest is given up.
    pub handshakes: usize,
    /// Time for a handshake.
    pub handshake: Duration,
    /// Connections of those who are not believed: they are told why, and may join with a token.
    pub strangers: usize,
    /// How long such a connection lasts.
    pub stranger: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 4096,
            handshakes: 256,
            handshake: Duration::from_secs(5),
            strangers: 64,
            stranger: Duration::from_secs(40),
        }
    }
}

/// Connections of a listener, each with the peer that it is from. Handshakes go on side by side, so a slow one holds up
/// no other.
pub fn secured(
    accept: Box<dyn Accept>,
    trust: Trust,
    limits: Limits,
    doorman: Arc<dyn Doorman>,
) -> impl Stream<Item = io::Result<Link>> {
    let (ready, links) = mpsc::channel(16);
    let door = Arc::new(Door {
        trust,
        limits,
        doorman,
        room: Arc::new(Semaphore::new(limits.connections)),
        strangers: Arc::new(Semaphore::new(limits.strangers)),
        ready,
    });
    let task = EndsWithStream(tokio::spawn(accept_all(accept, door)));
    futures::stream::unfold((links, task), |(mut links, task)| async move {
        let link = links.recv().await?;
        Some((Ok(link), (links, task)))
    })
}

struct EndsWithStream(JoinHandle<()>);

impl Drop for EndsWithStream {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Door {
    trust: Trust,
    limits: Limits,
    doorman: Arc<dyn Doorman>,
    room: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    ready: mpsc::Sender<Link>,
}

async fn accept_all(mut accept: Box<dyn Accept>, door: Arc<Door>) {
    let mut young: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let link = match accept.accept().await {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        young.retain(|handshake| !handshake.is_finished());
        if young.len() >= door.limits.handshakes
            && let Some(oldest) = young.pop_front()
        {
            oldest.abort();
        }
        let door = door.clone();
        young.push_back(tokio::spawn(async move { door.greet(link).await }).abort_handle());
    }
}

impl Door {
    /// Finds out who it is, and passes the connection on if there is room for it.
    async fn greet(&self, link: Link) {
        let from = link.peer().from;
        let state = self.trust.state();
        let Some(server) = state.server.clone() else { return };
        let stream = match tokio::time::timeout(self.limits.handshake, TlsAcceptor::from(server).accept(link)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.doorman.refused(from, &Distrust::Handshake(explain_to_self(&error))),
            Err(_) => {
                let why = format!("no TLS handshake within {} s", self.limits.handshake.as_secs());
                return self.doorman.refused(from, &Distrust::Handshake(why));
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let (who, room, end) = match self.trust.judge(&state, chain) {
            Ok(name) => (Who::Known(Arc::new(name)), &self.room, None),
            Err(why) => {
                // Whoever joins has nothing to show yet.
                if why != Distrust::NoCertificate {
                    self.doorman.refused(from, &why);
                }
                (Who::Nobody(Arc::new(why)), &self.strangers, Some(self.limits.stranger))
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { return self.doorman.crowded(from) };
        let guarded = Guarded { stream, _permit: permit, end: end.map(|end| Box::pin(tokio::time::sleep(end))) };
        // Where nobody takes it any more, the node is stopping.
        let _ = self.ready.send(Link::new(guarded).with_peer(Peer { who, from })).await;
    }
}

/// A failed handshake in the words of the side that listens.
fn explain_to_self(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS".into(),
        Some(rustls::Error::AlertReceived(alert)) => format!("it does not believe this node: {alert:?}"),
        Some(rustls::Error::PeerIncompatible(why)) => format!("it speaks no TLS that is spoken here: {why:?}"),
        _ => error.to_string(),
    }
}

/// A stream that counts while it lives, and may have to end.
struct Guarded<S> {
    stream: S,
    _permit: OwnedSemaphorePermit,
    end: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
