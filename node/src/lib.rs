//! A Weft node: it acts on what `weft-core` decides.
//!
//! `meta/` replicates groups of records with Raft, `chunk/` keeps file bytes, `records/` and `disk/` are what they
//! stand on, `site/` joins the node to its site. Everything outside is reached through [`parts`].

pub mod chunk;
pub mod disk;
pub mod fsck;
pub mod http;
pub mod identity;
pub mod meta;
pub mod metrics;
pub mod node;
pub mod parts;
pub mod real;
pub mod records;
pub mod settings;
pub mod site;
pub mod trust;
