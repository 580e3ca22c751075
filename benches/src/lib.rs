//! Numbers: `cargo bench -p weft-benches`. What is measured lies under `benches/`; here is nothing but this line, as a package needs.
