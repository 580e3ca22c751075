//! What tests of the simulator share.

use std::process::Command;

/// Runs `weft-sim`: whether it succeeded, and what it said.
pub(crate) fn weft_sim(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-sim")).args(args).output().expect("run weft-sim");
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Other seeds with every change, the same for the same sources wherever they are tested: from the hash of the commit's
/// tree. Without git, always the same.
pub(crate) fn first_seed() -> u64 {
    let tree = Command::new("git").args(["rev-parse", "HEAD^{tree}"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let hash = tree.ok().filter(|tree| tree.status.success()).map(|tree| tree.stdout).unwrap_or_default();
    let digits = std::str::from_utf8(&hash).ok().and_then(|hash| hash.get(..8));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
}
