//! The machine of a group: sessions, bounds, steps, spaces.

mod acl;
mod bounds;
mod compact;
mod garbage;
mod group;
mod leases;
mod posix;
mod search;
mod sessions;
mod spaces;
mod volumes;
