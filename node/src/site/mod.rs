//! The node in its site: the site map it holds, the peers it talks to, heartbeats, and the system group's duties.

pub mod map;
pub mod peers;
