//! The machine of a group: sessions, bounds, steps, spaces.

mod bounds;
mod group;
mod posix;
mod sessions;
mod spaces;
