//! One simulated site: its nodes and their clients, what breaks, and the judgement at the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_client::ClientParts;
use weft_core::entry::Command;
use weft_core::ids::GroupId;
use weft_core::site::SiteCommand;
use weft_node::node::Node;
use weft_node::parts::{Dice, Parts};
use weft_node::site::setup;

use crate::disk::{Habits, SimDisk};
use crate::judge::{JUDGEMENT, RECOVERY, judge};
use crate::nemesis::Nemesis;
use crate::net::{SimDatagrams, SimNet, Weather};
use crate::run::{Faults, Plan, Violation};
use crate::site::{self, Site};
use crate::state::{Order, SimClock};
use crate::workload::{self, Memory, Shared};
use crate::{det, state::NodeState};

pub use crate::site::{addrs, host};

/// How long after its end a node is started again by whoever looks after the machine.
const RESTART: Duration = Duration::from_millis(500);

type Outcome = Result<(), Box<dyn std::error::Error>>;

thread_local! {
    /// The network of the simulation on this thread.
    static NET: SimNet = SimNet::default();
}

/// Simulated time since the start.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// CRC-32, for messages.
pub fn sum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
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

/// The network that everything simulated on this thread goes through.
pub fn net() -> SimNet {
    NET.with(SimNet::clone)
}

/// Parts of a simulated client.
pub fn client_parts() -> ClientParts {
    ClientParts { dial: Arc::new(net()), clock: Arc::new(SimClock::default()), dice: Arc::new(SimDice) }
}

/// What runs on a node's machine from boot to crash: the node, started again when it ends by itself, as after a failure
/// of its disk.
async fn machine(site: Rc<Site>, node: usize, state: NodeState, datagrams: SimDatagrams) -> Outcome {
    let parts = Parts {
        clock: Arc::new(state.clock.clone()),
        dice: Arc::new(SimDice),
        disk: Arc::new(state.disk.clone()),
        dial: Arc::new(net()),
        listen: Arc::new(net()),
        datagrams: Arc::new(datagrams),
        records: Arc::new(state.records.clone()),
        indexes: Arc::new(state.indexes.clone()),
    };
    loop {
        match life(&site, node, &state, &parts).await {
            Ok(()) => tracing::error!(node, "the node stopped by itself"),
            Err(error) => tracing::error!(node, %error, "the node did not start"),
        }
        state.restarts.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(RESTART).await;
    }
}

/// One life of a node's process, which ends only if something failed.
async fn life(site: &Site, node: usize, state: &NodeState, parts: &Parts) -> Outcome {
    let settings = site.settings(node);
    let mut turn = node;
    while !setup::is_member(&settings, parts).await? {
        let joined = if node == 0 && !state.joins.load(Ordering::Relaxed) {
            setup::init(&settings, "sim", site::GROUPS, site.replication, parts).await.map(drop)
        } else {
            turn += 1;
            let peers = addrs().into_iter().filter(|peer| *peer != settings.advertise).collect::<Vec<_>>();
            setup::join(&settings, &peers[turn % peers.len()], parts).await.map(drop)
        };
        if let Err(error) = joined {
            tracing::info!(node, %error, "join");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let running = Node::start(settings, parts.clone()).await?;
    let mut orders = state.listen(&running);
    loop {
        tokio::select! {
            biased;
            () = running.wait() => break,
            Some(order) = orders.recv() => match order {
                Order::HandOver { group, to } => {
                    let led = running.groups().and_then(|groups| groups.group(group)).filter(|group| group.leading());
                    if let Some(group) = led && group.transfer_lead(to).await.is_ok() {
                        state.handed_over.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Order::Drain { node, on } => {
                    let system = running.groups().and_then(|groups| groups.group(GroupId::SYSTEM));
                    let command = Command::Site(SiteCommand::DrainNode { node, on });
                    if let Some(group) = system.filter(|group| group.leading())
                        && group.propose(None, command).await.is_ok()
                    {
                        state.drains.fetch_add(1, Ordering::Relaxed);
                    }
                }
            },
        }
    }
    running.shutdown().await;
    Ok(())
}

/// Runs a plan: what fired, and the verdict.
pub fn run(plan: &Plan) -> (Faults, Result<(), Violation>) {
    let mut rng = SmallRng::seed_from_u64(plan.seed);
    let until = Duration::from_secs(plan.seconds);
    let site = Rc::new(Site::draw(&mut rng, until));
    tracing::info!(?site, "site");
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(until + RECOVERY + JUDGEMENT)
        .min_message_latency(site.latency.0)
        .max_message_latency(site.latency.1)
        .tcp_capacity(1 << 16)
        .udp_capacity(1 << 12)
        .enable_random_order()
        .build();
    let datagrams = SimDatagrams::new(rng.random(), Weather::default());
    let nodes: Vec<NodeState> = (0..site.nodes())
        .map(|_| {
            let habits = Habits { lies: plan.lying_disks, ..Habits::default() };
            NodeState::new(SimDisk::new(rng.random(), habits))
        })
        .collect();
    for (node, state) in nodes.iter().enumerate() {
        let (site, state, datagrams) = (site.clone(), state.clone(), datagrams.clone());
        sim.host(host(node), move || machine(site.clone(), node, state.clone(), datagrams.clone()));
    }
    let shared: Shared = Rc::new(RefCell::new(Memory::default()));
    let clients: Vec<String> = (0..plan.clients).map(|id| format!("c{id}")).collect();
    workload::start(&mut sim, &clients, plan.seed, until, &shared);
    sim.client("judge", judge(until, plan.clients, shared.clone(), nodes.clone()));
    let rng = SmallRng::seed_from_u64(rng.random());
    let mut nemesis = Nemesis::new(rng, (plan.faults, &plan.kinds), site.clone(), nodes.clone(), clients, until);
    nemesis.before(&mut sim);
    loop {
        det::set_now(sim.elapsed().as_nanos() as u64);
        nemesis.turn(&mut sim);
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
    (faults, memory.broken.clone().map_or(Ok(()), Err))
}
