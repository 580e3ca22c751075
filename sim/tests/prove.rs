//! The laws can fail: each promise that is broken on purpose is found. More of it with `weft-sim prove`.

use std::process::Command;

#[test]
fn seeds_find_every_broken_promise() {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-sim")).arg("prove").output().expect("run weft-sim");
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
