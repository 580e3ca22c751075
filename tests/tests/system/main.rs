//! What a fabric promises, tried on real processes with a real mount. Needs root and fuse3.

mod bad_input;
mod node_down;
mod parallel;
mod rot;
mod tree;
mod two_mounts;
