//! Whom nodes believe: over links in memory, and in a site of nodes in one process with real gRPC over loopback.

mod links;
mod site;
