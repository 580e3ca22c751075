//! What breaks, and when: decided by the seed alone.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use turmoil::Sim;

use crate::run::Faults;
use crate::state::NodeState;
use crate::world::{NODES, host};

/// Breaks things until its time is over, then mends everything.
pub struct Nemesis {
    rng: SmallRng,
    nodes: Vec<NodeState>,
    clients: Vec<String>,
    /// When each node that is down comes back.
    down: Vec<Option<Duration>>,
    next: Duration,
    until: Duration,
    mended: bool,
    faults: Faults,
}

impl Nemesis {
    /// Begins after a quiet start and mends at `until`.
    pub fn new(rng: SmallRng, nodes: Vec<NodeState>, clients: Vec<String>, until: Duration) -> Nemesis {
        let next = Duration::from_secs(4);
        let down = vec![None; nodes.len()];
        Nemesis { rng, nodes, clients, down, next, until, mended: false, faults: Faults::default() }
    }

    /// Adds what it did.
    pub fn count(&self, faults: &mut Faults) {
        faults.crashes += self.faults.crashes;
        faults.partitions += self.faults.partitions;
        faults.slow_links += self.faults.slow_links;
    }

    /// Called before each step of the simulation.
    pub fn turn(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        if self.mended {
            return;
        }
        let over = now >= self.until;
        for node in 0..NODES {
            if self.down[node].is_some_and(|back| over || now >= back) {
                tracing::info!(node, "nemesis: boot");
                sim.bounce(host(node));
                self.down[node] = None;
            }
        }
        if over {
            self.mend(sim);
            self.mended = true;
        } else if now >= self.next {
            self.next = now + Duration::from_millis(self.rng.random_range(100..1500));
            self.act(sim, now);
        }
    }

    fn act(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let a = self.rng.random_range(0..NODES);
        let b = (a + self.rng.random_range(1..NODES)) % NODES;
        match self.rng.random_range(0..12) {
            0 | 1 => {
                tracing::info!(a, b, "nemesis: partition");
                self.faults.partitions += 1;
                sim.partition(host(a), host(b));
            }
            2 => {
                tracing::info!(a, b, "nemesis: one-way partition");
                self.faults.partitions += 1;
                sim.partition_oneway(host(a), host(b));
            }
            3 => {
                tracing::info!(a, "nemesis: isolate");
                self.faults.partitions += 1;
                for other in (0..NODES).filter(|other| *other != a) {
                    sim.partition(host(a), host(other));
                }
            }
            4 => {
                let client = self.rng.random_range(0..self.clients.len());
                tracing::info!(a, client, "nemesis: cut a client off a node");
                self.faults.partitions += 1;
                sim.partition(host(a), self.clients[client].as_str());
            }
            5 => {
                let slow = Duration::from_millis(self.rng.random_range(10..200));
                tracing::info!(a, b, ?slow, "nemesis: slow link");
                self.faults.slow_links += 1;
                sim.set_link_max_message_latency(host(a), host(b), slow);
            }
            6..9 => self.mend(sim),
            _ => self.crash(sim, now, a),
        }
    }

    /// Mostly one node at a time; now and then all of them, one after the other.
    fn crash(&mut self, sim: &mut Sim<'_>, now: Duration, node: usize) {
        let others_down = self.down.iter().flatten().count();
        if self.down[node].is_some() || (others_down > 0 && !self.rng.random_bool(0.3)) {
            return;
        }
        let back = now + Duration::from_millis(self.rng.random_range(20..5000));
        tracing::info!(node, ?back, "nemesis: crash");
        self.faults.crashes += 1;
        sim.crash(host(node));
        self.nodes[node].crash(&mut self.rng);
        self.down[node] = Some(back);
    }

    fn mend(&mut self, sim: &mut Sim<'_>) {
        tracing::info!("nemesis: mend all links");
        for a in 0..NODES {
            for b in 0..a {
                sim.repair(host(a), host(b));
                sim.set_link_max_message_latency(host(a), host(b), Duration::from_millis(4));
            }
            for client in &self.clients {
                sim.repair(host(a), client.as_str());
            }
        }
    }
}
