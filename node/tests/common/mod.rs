//! Nodes of a site in one process: real gRPC over loopback, disks and records in memory.

use std::sync::Arc;
use std::time::Duration;

use weft_core::ids::GroupId;
use weft_node::chunk::index::MemoryIndexes;
use weft_node::disk::MemDisk;
use weft_node::node::Node;
use weft_node::parts::Parts;
use weft_node::real::{OsDice, RealClock, Udp};
use weft_node::records::RecordStore;
use weft_node::records::memory::MemoryRecords;
use weft_node::settings::Settings;
use weft_node::site::setup;
use weft_proto::link::Tcp;

/// Nothing takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Machine {
    pub(crate) node: Node,
    #[allow(dead_code, reason = "not every test looks at its disks")]
    pub(crate) disk: MemDisk,
    pub(crate) records: MemoryRecords,
}

/// A node that makes a site, or joins one.
#[allow(dead_code, reason = "not every test leaves the settings as they are")]
pub(crate) async fn machine(peer: Option<&str>) -> Machine {
    machine_with(peer, |_| ()).await
}

/// The same with other settings.
pub(crate) async fn machine_with(peer: Option<&str>, change: fn(&mut Settings)) -> Machine {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = socket.local_addr().expect("an address").port();
    drop(socket);
    let (disk, records) = (MemDisk::new(), MemoryRecords::default());
    let mut settings = Settings { listen: format!("127.0.0.1:{port}"), http: String::new(), ..Settings::default() };
    settings.chunks.reserve_mib = 0;
    settings.chunks.segment_mib = 8;
    change(&mut settings);
    let parts = Parts {
        clock: Arc::new(RealClock),
        dice: Arc::new(OsDice),
        disk: Arc::new(disk.clone()),
        dial: Arc::new(Tcp),
        listen: Arc::new(Tcp),
        datagrams: Arc::new(Udp),
        records: Arc::new(records.clone()),
        indexes: Arc::new(MemoryIndexes),
    };
    match peer {
        None => drop(setup::init(&settings, "test", 1, 3, &parts).await.expect("init")),
        Some(peer) => drop(setup::join(&settings, peer, &parts).await.expect("join")),
    }
    Machine { node: Node::start(settings, parts).await.expect("start the node"), disk, records }
}

/// What a node's replica of a group has.
pub(crate) fn store_of(machine: &Machine, group: GroupId) -> Arc<dyn RecordStore> {
    machine.records.group(group).expect("a replica")
}
