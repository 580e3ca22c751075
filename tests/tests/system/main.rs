//! What a fabric promises, tried on real processes with a real mount. Needs root and fuse3.

mod bad_input;
mod parallel;
mod tree;
