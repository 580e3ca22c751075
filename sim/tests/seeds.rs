//! A few seeds with every change; many with `weft-sim run`.

use std::process::Command;

fn weft_sim(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-sim")).args(args).output().expect("run weft-sim");
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn seeds_with_faults_are_lawful() {
    let (lawful, said) = weft_sim(&["run", "--seeds", "6", "--seconds", "15"]);
    assert!(lawful, "{said}");
    assert!(
        !said.contains("crashes=0 hurt_writes=0 partitions=0 slow_links=0 acknowledged=0"),
        "nothing fired: {said}"
    );
}

#[test]
fn a_seed_repeats_itself_event_for_event() {
    let (same, said) = weft_sim(&["twice", "11", "--seconds", "8"]);
    assert!(same, "{said}");
}
