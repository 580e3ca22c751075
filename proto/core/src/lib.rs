//! What Weft decides: the namespace, placement and access as functions of values.
//!
//! Nothing here touches a clock, a disk, a socket, a thread or a die: time, ids and random numbers come in with the
//! command, records come in through [`view::View`]. The same log applied to the same records gives the same bytes on
//! every replica and in the simulator.

pub mod access;
#[doc(hidden)]
pub mod broken;
pub mod checksum;
pub mod codec;
pub mod entry;
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod machine;
pub mod name;
pub mod namespace;
pub mod refusal;
pub mod site;
pub mod span;
pub mod time;
pub mod view;
