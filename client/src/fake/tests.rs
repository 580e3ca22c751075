//! The client against the fake site.

mod example;
mod faults;
mod files;
mod leases;
mod model;
mod place;
