//! One simulated site: three nodes and their clients, what breaks, and the judgement at the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_client::ClientParts;
use weft_core::time::Timestamp;
use weft_node::chunk::index::MemoryIndexes;
use weft_node::node::Node;
use weft_node::parts::{Clock, Dice, Parts};
use weft_node::settings::{RecordStoreKind, Settings};
use weft_node::site::setup;

use crate::disk::{Habits, SimDisk};
use crate::judge::{JUDGEMENT, RECOVERY, judge};
use crate::nemesis::Nemesis;
use crate::net::SimNet;
use crate::run::{Faults, Plan, Violation};
use crate::workload::{self, Memory, Shared};
use crate::{det, state::NodeState};

/// Nodes of the site.
pub const NODES: usize = 3;
const PORT: u16 = 7400;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// turmoil's name of a node, from 0.
pub fn host(node: usize) -> String {
    format!("n{}", node + 1)
}

/// Where the nodes answer.
pub fn addrs() -> Vec<String> {
    (0..NODES).map(|node| format!("{}:{PORT}", host(node))).collect()
}

/// Simulated time since the start.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// CRC-32, for messages.
pub fn sum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The wall clock of a simulated machine.
pub struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(det::EPOCH_S * 1_000_000_000 + now().as_nanos() as u64)
    }
}

impl weft_client::parts::Clock for SimClock {
    fn now(&self) -> Timestamp {
        Clock::now(self)
    }
}

/// Seeded dice: the thread's own, so that they differ from throw to throw and from start to start.
pub struct SimDice;

impl Dice for SimDice {
    fn roll(&self) -> u64 {
        let mut bytes = [0; 8];
        // SAFETY: the buffer has eight bytes. The interposed call never fails.
        unsafe { det::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        u64::from_le_bytes(bytes)
    }
}

impl weft_client::parts::Dice for SimDice {
    fn roll(&self) -> u64 {
        Dice::roll(self)
    }
}

/// Parts of a simulated client.
pub fn client_parts() -> ClientParts {
    ClientParts { dial: Arc::new(SimNet), clock: Arc::new(SimClock), dice: Arc::new(SimDice) }
}

fn settings(node: usize) -> Settings {
    Settings {
        data: "data".into(),
        listen: format!("0.0.0.0:{PORT}"),
        advertise: format!("{}:{PORT}", host(node)),
        http: String::new(),
        record_store: RecordStoreKind::Memory,
        peers: addrs(),
        ..Settings::default()
    }
}

/// What runs on a node's machine from boot to crash.
async fn machine(node: usize, state: NodeState) -> Outcome {
    let settings = settings(node);
    let parts = Parts {
        clock: Arc::new(SimClock),
        dice: Arc::new(SimDice),
        disk: Arc::new(state.disk.clone()),
        dial: Arc::new(SimNet),
        listen: Arc::new(SimNet),
        records: Arc::new(state.records.clone()),
        indexes: Arc::new(MemoryIndexes),
    };
    while !setup::is_member(&settings, &parts).await? {
        let joined = match node {
            0 => setup::init(&settings, "sim", 2, NODES as u8, &parts).await.map(drop),
            _ => setup::join(&settings, &addrs()[0], &parts).await.map(drop),
        };
        if let Err(error) = joined {
            tracing::info!(node, %error, "join");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let running = Node::start(settings, parts).await?;
    running.wait().await;
    Err("the node stopped by itself".into())
}

/// Runs a plan: what fired, and the verdict.
pub fn run(plan: &Plan) -> (Faults, Result<(), Violation>) {
    let mut rng = SmallRng::seed_from_u64(plan.seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(plan.seconds) + RECOVERY + JUDGEMENT)
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(4))
        .tcp_capacity(1 << 16)
        .enable_random_order()
        .build();
    let nodes: Vec<NodeState> = (0..NODES)
        .map(|_| {
            let habits = Habits { lies: plan.lying_disks, ..Habits::default() };
            NodeState { disk: SimDisk::new(rng.random(), habits), ..NodeState::default() }
        })
        .collect();
    for (node, state) in nodes.iter().enumerate() {
        let state = state.clone();
        sim.host(host(node), move || machine(node, state.clone()));
    }
    let shared: Shared = Rc::new(RefCell::new(Memory::default()));
    let until = Duration::from_secs(plan.seconds);
    let clients: Vec<String> = (0..plan.clients).map(|id| format!("c{id}")).collect();
    for (id, name) in clients.iter().enumerate() {
        sim.client(name.as_str(), workload::client(id as u64, plan.seed, until, shared.clone()));
    }
    sim.client("judge", judge(until, plan.clients, shared.clone(), nodes.clone()));
    let mut nemesis = Nemesis::new(SmallRng::seed_from_u64(rng.random()), nodes.clone(), clients, until);
    loop {
        det::set_now(sim.elapsed().as_nanos() as u64);
        if plan.faults {
            nemesis.turn(&mut sim);
        }
        match sim.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                let law = "all is served again in time";
                shared.borrow_mut().broken.get_or_insert(Violation { law, what: error.to_string() });
                break;
            }
        }
    }
    drop(sim);
    let memory = shared.borrow();
    let mut faults = memory.faults;
    nemesis.count(&mut faults);
    faults.hurt_writes = nodes.iter().map(|node| node.disk.hurt()).sum();
    (faults, memory.broken.clone().map_or(Ok(()), Err))
}
