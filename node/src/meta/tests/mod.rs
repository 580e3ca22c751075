//! Groups of real replicas: real loopback connections, real logs on disks in memory, records in memory.

mod clients;
mod cluster;
mod members;
mod proposals;
mod recovery;
