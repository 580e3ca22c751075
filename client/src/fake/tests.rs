//! The client against the fake site.

mod faults;
mod files;
mod model;
