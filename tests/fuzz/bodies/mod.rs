//! What must hold for any bytes at all, one function for each parser of bytes from outside.
//!
//! Each `body` takes bytes as a fuzzer or a disk or a stranger makes them, and panics when something does not hold. They
//! run in two ways: on the stable toolchain over a small corpus and seeded mutations of it (`tests/fuzz.rs`), and under
//! `cargo fuzz` (`fuzz_targets/`).

pub mod chunk;
pub mod codec;
pub mod frugal;
pub mod log;
pub mod machine;
pub mod mutate;
pub mod raft;
pub mod settings;
pub mod wire;

/// Panics when something does not hold of the bytes.
pub type Body = fn(&[u8]);

/// The bodies by the name of their target and of their folder in the corpus.
pub const BODIES: [(&str, Body); 7] = [
    ("chunk", chunk::body),
    ("codec", codec::body),
    ("log", log::body),
    ("machine", machine::body),
    ("raft", raft::body),
    ("settings", settings::body),
    ("wire", wire::body),
];
