//! The real parts of a node: this machine's clock, randomness, disk and network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use weft_core::time::Timestamp;
use weft_proto::link::Tcp;

use crate::chunk::index::SledIndexes;
use crate::disk::RealDisk;
use crate::identity::{FolderError, FolderLock};
use crate::parts::{Clock, DatagramSocket, Datagrams, Dice, Parts};
use crate::records::RecordStores;
use crate::records::fjall::FjallRecords;
use crate::records::memory::MemoryRecords;
use crate::records::sled::SledRecords;
use crate::settings::{RecordStoreKind, Settings};

/// The parts of a real node, and the lock on its data folder, to be kept until the node was shut down. Makes the
/// folder if it is missing. Blocks for a moment: called once at the start.
///
/// # Errors
/// Another process has the folder, or it can't be made.
pub fn open(settings: &Settings) -> Result<(Parts, FolderLock), FolderError> {
    let lock = FolderLock::take(&settings.data)?;
    let disk = RealDisk::open(&settings.data).map_err(|source| FolderError::Disk {
        doing: format!("open data folder {}", settings.data.display()),
        source,
    })?;
    // The system group, the two others of a small site, and one to spare share the memory for hot records.
    let (cache, hot) = (settings.records.cache_mib << 20, ((settings.records.hot_mib as usize) << 20) / 4);
    let records: Arc<dyn RecordStores> = match settings.record_store {
        RecordStoreKind::Fjall => Arc::new(FjallRecords::new(cache, hot)),
        RecordStoreKind::Sled => Arc::new(SledRecords::new(cache, hot)),
        RecordStoreKind::Memory => Arc::new(MemoryRecords::new()),
    };
    let indexes = Arc::new(SledIndexes::new(disk.root(), settings.chunks.index_cache_mib << 20));
    let parts = Parts {
        clock: Arc::new(RealClock),
        dice: Arc::new(OsDice),
        disk: Arc::new(disk),
        dial: Arc::new(Tcp),
        listen: Arc::new(Tcp),
        datagrams: Arc::new(Udp),
        records,
        indexes,
    };
    Ok((parts, lock))
}

/// The machine's wall clock.
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            // Before 1970 the parts of a second count forwards from the earlier second.
            Err(before) => {
                let before = before.duration();
                let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                Timestamp { secs: -(before.as_secs() as i64) - i64::from(nanos != 0), nanos }
            }
        }
    }
}

/// The operating system's randomness.
pub struct OsDice;

impl Dice for OsDice {
    fn roll(&self) -> u64 {
        // Without randomness ids may collide and marks may be forged: there is no way to go on.
        OsRng.try_next_u64().expect("the operating system gives random bytes")
    }
}

/// UDP of this machine.
pub struct Udp;

#[derive(Debug)]
struct UdpDatagrams(UdpSocket);

#[async_trait::async_trait]
impl Datagrams for Udp {
    async fn bind(&self, addr: &str) -> io::Result<Arc<dyn DatagramSocket>> {
        Ok(Arc::new(UdpDatagrams(UdpSocket::bind(addr).await?)))
    }
}

impl DatagramSocket for UdpDatagrams {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn try_send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        // The kernel takes a datagram whole or not at all.
        self.0.try_send_to(datagram, to).map(drop)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_send_ready(cx)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buf = ReadBuf::new(buf);
        self.0.poll_recv_from(cx, &mut buf).map_ok(|from| (buf.filled().len(), from))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn datagrams_arrive_whole_with_their_sender_and_are_cut_to_the_buffer() {
        let a = Udp.bind("127.0.0.1:0").await.unwrap();
        let b = Udp.bind("127.0.0.1:0").await.unwrap();
        let (from, to) = (a.local_addr().unwrap(), b.local_addr().unwrap());
        for (datagram, room, expected) in [(&b"whole"[..], 16, &b"whole"[..]), (b"", 16, b""), (b"too long", 3, b"too")]
        {
            poll_fn(|cx| a.poll_send_ready(cx)).await.unwrap();
            a.try_send(to, datagram).unwrap();
            let mut buf = vec![0; room];
            let (len, sender) = poll_fn(|cx| b.poll_recv(cx, &mut buf)).await.unwrap();
            assert_eq!((&buf[..len], sender), (expected, from));
        }
    }
}
