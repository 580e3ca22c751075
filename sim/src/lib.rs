//! Whole Weft sites in one thread under one seed: the code that ships, under a simulated network, disk, clock and
//! randomness.
//!
//! Nothing of this is in the release binary. One process runs one seed, since some libraries keep counters per process.

pub mod det;
pub mod disk;
pub mod net;
pub mod trace;
