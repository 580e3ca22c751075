//! What a fabric promises, tried on real processes with a real mount. Needs root and fuse3.

mod bad_input;
mod damage;
mod fsck;
mod full_disks;
mod garbage;
mod kills;
mod memory;
mod node_down;
mod parallel;
mod place;
mod repair;
mod rot;
mod tree;
mod trust;
mod two_mounts;
mod wipes;
