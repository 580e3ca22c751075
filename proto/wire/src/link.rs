//! The network seam, and gRPC connections over it. Product code opens and accepts connections only through these
//! traits; the simulator puts its own network behind them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint, Server, server::Connected};

use weft_core::limits::MAX_MESSAGE;

use crate::trust::{Peer, Whom};

/// A byte stream to another process.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Opens connections. `addr` is `host:port`. Must not wait longer than the caller's deadline allows: callers wrap it in
/// a time-out.
#[async_trait::async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects to `addr`.
    async fn dial(&self, addr: &str) -> io::Result<Link>;

    /// Connects to `addr` and makes sure of who answers there. In plain text nobody can: it takes whoever does.
    async fn dial_to(&self, addr: &str, whom: Whom) -> io::Result<Link> {
        let _ = whom;
        self.dial(addr).await
    }
}

/// Accepts connections.
#[async_trait::async_trait]
pub trait Accept: Send + 'static {
    /// The next connection.
    async fn accept(&mut self) -> io::Result<Link>;
    /// The address it listens on, `host:port` with the real port.
    fn local_addr(&self) -> io::Result<String>;
}

/// Opens listeners.
#[async_trait::async_trait]
pub trait Listen: Send + Sync + 'static {
    /// Listens on `addr`, `host:port`; port 0 takes any.
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Accept>>;
}

/// One connection.
pub struct Link {
    stream: Pin<Box<dyn Stream>>,
    peer: Peer,
}

impl Link {
    /// Wraps a stream, with nobody known at its other end.
    pub fn new(stream: impl Stream) -> Link {
        Link { stream: Box::pin(stream), peer: Peer::default() }
    }

    /// With what is known of the other end.
    #[must_use]
    pub fn with_peer(self, peer: Peer) -> Link {
        Link { peer, ..self }
    }

    /// What is known of the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

impl Connected for Link {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// The real network: TCP without delay.
pub struct Tcp;

#[async_trait::async_trait]
impl Dial for Tcp {
    async fn dial(&self, addr: &str) -> io::Result<Link> {
        let stream = tokio::net::TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Link::new(stream))
    }
}

struct TcpAccept(tokio::net::TcpListener);

#[async_trait::async_trait]
impl Accept for TcpAccept {
    async fn accept(&mut self) -> io::Result<Link> {
        let (stream, from) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok(Link::new(stream).with_peer(Peer { from: Some(from), ..Peer::default() }))
    }
    fn local_addr(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

#[async_trait::async_trait]
impl Listen for Tcp {
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Accept>> {
        Ok(Box::new(TcpAccept(tokio::net::TcpListener::bind(addr).await?)))
    }
}

const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
const FRAME: u32 = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests that their caller gave up before the server saw them. A node that stood still for some seconds finds as many
/// as were sent meanwhile; beyond the bound the connection ends, and with it the requests that are still wanted.
const MAX_GIVEN_UP: usize = 4096;

/// A lazily connected, self-reconnecting gRPC channel to `addr` (`host:port`), with the windows and frames measured
/// best for chunks and keep-alive on, so that a silent peer is noticed.
pub fn channel(dial: Arc<dyn Dial>, addr: &str) -> Result<Channel, tonic::transport::Error> {
    channel_to(dial, addr, Whom::AnyNode)
}

/// The same, to one node and no other.
pub fn channel_to(dial: Arc<dyn Dial>, addr: &str, whom: Whom) -> Result<Channel, tonic::transport::Error> {
    let addr = addr.to_string();
    Ok(Endpoint::from_shared(format!("http://{addr}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (dial, addr) = (dial.clone(), addr.clone());
            async move { Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(dial.dial_to(&addr, whom).await?)) }
        })))
}

/// A gRPC server with the same windows, frames and keep-alive.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(MAX_GIVEN_UP))
}

/// Connections of a listener as the stream that `serve_with_incoming` takes. A failed accept is logged and waited out
/// for a moment, since the usual reason (no descriptors left) passes.
pub fn incoming(accept: Box<dyn Accept>) -> impl futures::Stream<Item = io::Result<Link>> {
    futures::stream::unfold(accept, |mut accept| async move {
        loop {
            match accept.accept().await {
                Ok(link) => return Some((Ok(link), accept)),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

/// What every generated client and server needs: `max_decoding_message_size` and `max_encoding_message_size`.
pub const MESSAGE_LIMIT: usize = MAX_MESSAGE;
