//! A few seeds with every change; many with `weft-sim run`.

mod common;

use common::{first_seed, weft_sim};

#[test]
fn a_hundred_seeds_with_faults_are_lawful() {
    let first = first_seed().to_string();
    let (lawful, said) = weft_sim(&["run", "--seeds", "100", "--from", &first, "--seconds", "6"]);
    assert!(lawful, "{said}");
    assert!(
        !said.contains("crashes=0 hurt_writes=0 partitions=0 slow_links=0 acknowledged=0"),
        "nothing fired: {said}"
    );
}

#[test]
fn a_seed_repeats_itself_event_for_event() {
    let (same, said) = weft_sim(&["twice", "11", "--seconds", "6"]);
    assert!(same, "{said}");
}

#[test]
fn seeds_that_found_something_are_lawful() {
    let (lawful, said) = weft_sim(&["run", "--known", "--seconds", "12"]);
    assert!(lawful, "{said}");
}
