//! Whole Weft sites in one thread under one seed: the code that ships, under a simulated network, disk, clock and
//! randomness.
//!
//! Nothing of this is in the release binary. One process runs one seed, since some libraries keep counters per process.

pub mod det;
pub mod disk;
pub mod index;
pub mod judge;
pub mod laws;
pub mod nemesis;
pub mod net;
pub mod run;
pub mod site;
pub mod small;
pub mod state;
pub mod trace;
pub mod workload;
pub mod world;
