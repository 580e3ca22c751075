//! The network seams over turmoil: streams that can be torn down in mid-flight, and datagrams that get lost, doubled
//! and overtaken as the seed says. Latency, partitions and slow links are turmoil's.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream, UdpSocket};
use weft_node::parts::{DatagramSocket, Datagrams};
use weft_proto::link::{Accept, Dial, Link, Listen};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections through turmoil. Addresses are `host:port` with turmoil's host names. Clones share the connections that
/// can be reset.
#[derive(Clone, Default)]
pub struct SimNet(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    next: u64,
    open: BTreeMap<u64, Wire>,
}

/// One end of a connection.
struct Wire {
    ends: (IpAddr, IpAddr),
    reset: bool,
    wakers: [Option<Waker>; 2],
}

const READING: usize = 0;
const WRITING: usize = 1;

impl SimNet {
    /// Tears down all connections between two hosts: both ends hear of it at once. Returns how many ends there were.
    pub fn reset(&self, a: IpAddr, b: IpAddr) -> u64 {
        let mut wakers = Vec::new();
        let mut ends = 0;
        for wire in locked(&self.0).open.values_mut() {
            if !wire.reset && (wire.ends == (a, b) || wire.ends == (b, a)) {
                wire.reset = true;
                ends += 1;
                wakers.extend(wire.wakers.iter_mut().filter_map(Option::take));
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        ends
    }

    fn link(&self, stream: TcpStream) -> io::Result<Link> {
        let ends = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
        let mut wires = locked(&self.0);
        let id = wires.next;
        wires.next += 1;
        wires.open.insert(id, Wire { ends, reset: false, wakers: [None, None] });
        drop(wires);
        Ok(Link::new(SimStream { id, net: self.clone(), stream }))
    }
}

struct SimStream {
    id: u64,
    net: SimNet,
    stream: TcpStream,
}

impl SimStream {
    fn alive(&self, cx: &Context<'_>, direction: usize) -> io::Result<()> {
        let mut wires = locked(&self.net.0);
        match wires.open.get_mut(&self.id) {
            Some(wire) if !wire.reset => {
                wire.wakers[direction] = Some(cx.waker().clone());
                Ok(())
            }
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        locked(&self.net.0).open.remove(&self.id);
    }
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive(cx, READING)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.alive(cx, WRITING)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx, WRITING)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx, WRITING)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait::async_trait]
impl Dial for SimNet {
    async fn dial(&self, addr: &str) -> io::Result<Link> {
        self.link(TcpStream::connect(addr).await?)
    }
}

struct SimAccept(SimNet, TcpListener);

#[async_trait::async_trait]
impl Accept for SimAccept {
    async fn accept(&mut self) -> io::Result<Link> {
        self.0.link(self.1.accept().await?.0)
    }
    fn local_addr(&self) -> io::Result<String> {
        Ok(self.1.local_addr()?.to_string())
    }
}

#[async_trait::async_trait]
impl Listen for SimNet {
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Accept>> {
        Ok(Box::new(SimAccept(self.clone(), TcpListener::bind(addr).await?)))
    }
}

/// What happens to datagrams on their way, in thousandths, beside turmoil's latency.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Lost.
    pub lost: u32,
    /// Delivered twice.
    pub doubled: u32,
    /// Held back for up to [`Weather::late_by`], so that later ones overtake them.
    pub late: u32,
    /// How long late ones are held back at the most.
    pub late_by: Duration,
}

/// Datagrams that the weather befell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Befallen {
    /// Lost.
    pub lost: u64,
    /// Delivered twice.
    pub doubled: u64,
    /// Held back.
    pub late: u64,
}

/// Datagrams through turmoil. Cloning shares the weather and the dice.
#[derive(Clone)]
pub struct SimDatagrams(Arc<Mutex<Sky>>);

struct Sky {
    rng: SmallRng,
    weather: Weather,
    befallen: Befallen,
}

impl SimDatagrams {
    /// Datagrams under a seed.
    pub fn new(seed: u64, weather: Weather) -> SimDatagrams {
        let sky = Sky { rng: SmallRng::seed_from_u64(seed), weather, befallen: Befallen::default() };
        SimDatagrams(Arc::new(Mutex::new(sky)))
    }

    /// Changes the weather.
    pub fn turn(&self, weather: Weather) {
        locked(&self.0).weather = weather;
    }

    /// What happened so far.
    pub fn befallen(&self) -> Befallen {
        locked(&self.0).befallen
    }

    /// When each copy of a datagram that came in is to be delivered, counted from now.
    fn fate(&self) -> Vec<Duration> {
        let Sky { rng, weather, befallen } = &mut *locked(&self.0);
        let mut happens = |thousandths: u32| thousandths > 0 && rng.random_ratio(thousandths.min(1000), 1000);
        if happens(weather.lost) {
            befallen.lost += 1;
            return Vec::new();
        }
        let twice = happens(weather.doubled);
        befallen.doubled += u64::from(twice);
        let mut copies = Vec::new();
        for _ in 0..=u8::from(twice) {
            let late = weather.late > 0 && rng.random_ratio(weather.late.min(1000), 1000);
            befallen.late += u64::from(late);
            copies.push(if late { rng.random_range(Duration::ZERO..=weather.late_by) } else { Duration::ZERO });
        }
        copies
    }
}

#[async_trait::async_trait]
impl Datagrams for SimDatagrams {
    async fn bind(&self, addr: &str) -> io::Result<Arc<dyn DatagramSocket>> {
        let socket = Arc::new(UdpSocket::bind(addr).await?);
        let inbox = Arc::<Mutex<Inbox>>::default();
        let receiver = tokio::spawn(receive(socket.clone(), inbox.clone(), self.clone()));
        Ok(Arc::new(SimSocket { socket, inbox, receiver }))
    }
}

/// Datagrams that a socket holds until they are asked for; more than a socket's buffer takes are lost.
const INBOX: usize = 1024;
const MAX_DATAGRAM: usize = 65_536;

#[derive(Default)]
struct Inbox {
    queue: VecDeque<(Vec<u8>, SocketAddr)>,
    waker: Option<Waker>,
}

impl Inbox {
    fn put(&mut self, datagram: Vec<u8>, from: SocketAddr) {
        if self.queue.len() < INBOX {
            self.queue.push_back((datagram, from));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Moves what turmoil delivers into the inbox, each as its fate is.
async fn receive(socket: Arc<UdpSocket>, inbox: Arc<Mutex<Inbox>>, sky: SimDatagrams) {
    let mut buf = vec![0; MAX_DATAGRAM];
    while let Ok((len, from)) = socket.recv_from(&mut buf).await {
        for wait in sky.fate() {
            let (datagram, inbox) = (buf[..len].to_vec(), inbox.clone());
            if wait.is_zero() {
                locked(&inbox).put(datagram, from);
                continue;
            }
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                locked(&inbox).put(datagram, from);
            });
        }
    }
}

struct SimSocket {
    socket: Arc<UdpSocket>,
    inbox: Arc<Mutex<Inbox>>,
    receiver: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl DatagramSocket for SimSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn try_send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.socket.try_send_to(datagram, to).map(drop)
    }

    fn poll_send_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut inbox = locked(&self.inbox);
        let Some((datagram, from)) = inbox.queue.pop_front() else {
            inbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let len = datagram.len().min(buf.len());
        buf[..len].copy_from_slice(&datagram[..len]);
        Poll::Ready(Ok((len, from)))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const COUNT: u32 = 1000;

    /// What arrives of [`COUNT`] numbered datagrams, in order.
    fn exchange(seed: u64, weather: Weather) -> (Vec<u32>, Befallen) {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .udp_capacity(4096)
            .max_message_latency(Duration::from_millis(1))
            .build();
        let sky = SimDatagrams::new(seed, weather);
        let got = Arc::new(Mutex::new(Vec::new()));
        let (there, seen) = (sky.clone(), got.clone());
        sim.host("receiver", move || {
            let (there, seen) = (there.clone(), seen.clone());
            async move {
                let socket = there.bind("0.0.0.0:9000").await?;
                let mut buf = [0; 16];
                loop {
                    let (len, _) = poll_fn(|cx| socket.poll_recv(cx, &mut buf)).await?;
                    assert_eq!(len, 4);
                    locked(&seen).push(u32::from_be_bytes([buf[0], buf[1], buf[2], buf[3]]));
                }
            }
        });
        let here = sky.clone();
        sim.client("sender", async move {
            let socket = here.bind("0.0.0.0:0").await?;
            let to = SocketAddr::new(turmoil::lookup("receiver"), 9000);
            for number in 0..COUNT {
                poll_fn(|cx| socket.poll_send_ready(cx)).await?;
                socket.try_send(to, &number.to_be_bytes())?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        });
        sim.run().unwrap();
        let got = locked(&got).clone();
        (got, sky.befallen())
    }

    #[test]
    fn in_fair_weather_all_arrive_in_order() {
        let (got, befallen) = exchange(1, Weather::default());
        assert_eq!((got, befallen), ((0..COUNT).collect(), Befallen::default()));
    }

    #[test]
    fn in_foul_weather_some_are_lost_doubled_and_overtaken_and_the_same_ones_each_time() {
        let foul = Weather { lost: 50, doubled: 30, late: 100, late_by: Duration::from_millis(50) };
        let (got, befallen) = exchange(7, foul);
        assert!(befallen.lost > 20 && befallen.doubled > 10 && befallen.late > 50, "{befallen:?}");
        assert_eq!(got.len() as u64, u64::from(COUNT) - befallen.lost + befallen.doubled);
        assert!(got.windows(2).filter(|pair| pair[0] > pair[1]).count() > 20, "overtaken");
        assert_eq!(exchange(7, foul), (got.clone(), befallen));
        assert_ne!(exchange(8, foul).0, got);
    }

    #[test]
    fn a_reset_is_heard_by_both_ends_and_by_nobody_else() {
        let mut sim = turmoil::Builder::new().build();
        let net = SimNet::default();
        let serving = net.clone();
        sim.host("server", move || {
            let serving = serving.clone();
            async move {
                let mut accept = serving.listen("0.0.0.0:80").await?;
                loop {
                    let mut link = accept.accept().await?;
                    tokio::spawn(async move {
                        let mut byte = [0];
                        while link.read_exact(&mut byte).await.is_ok() {
                            // The reader on the other side says whether it arrived.
                            let _ = link.write_all(&byte).await;
                        }
                    });
                }
            }
        });
        for (name, torn) in [("torn", true), ("spared", false)] {
            let net = net.clone();
            sim.client(name, async move {
                let mut link = net.dial("server:80").await?;
                let mut byte = [7];
                link.write_all(&byte).await?;
                link.read_exact(&mut byte).await?;
                if torn {
                    let waiting = tokio::spawn(async move { link.read_exact(&mut byte).await.map(drop) });
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    assert_eq!(net.reset(turmoil::lookup("torn"), turmoil::lookup("server")), 2);
                    assert_eq!(waiting.await?.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
                } else {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    link.write_all(&byte).await?;
                    link.read_exact(&mut byte).await?;
                }
                Ok(())
            });
        }
        sim.run().unwrap();
        assert!(locked(&net.0).open.values().all(|wire| !wire.reset), "the torn ones are gone");
    }
}
