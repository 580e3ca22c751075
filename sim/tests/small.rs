//! The machines alone: some seeds that are always the same, and minutes of others.

mod common;

use weft_sim::small::{Tally, one};

#[test]
fn seeds_are_lawful_and_much_happens_in_them() {
    let happened: Vec<Tally> =
        (1..=12).map(|seed| one(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))).collect();
    for what in [
        "acknowledged",
        "asked_again",
        "crashes",
        "duplicated",
        "elections",
        "forged",
        "joins",
        "new_leaders",
        "pages_fetched",
        "taken_twice",
        "unfinished",
        "wipes",
    ] {
        assert!(happened.iter().any(|tally| tally.of(what) > 0), "nothing was {what} under any seed");
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 4] {
        assert_eq!(one(seed), one(seed));
    }
}

#[test]
fn two_minutes_of_other_seeds_are_lawful() {
    let from = common::first_seed().to_string();
    let (lawful, said) = common::weft_sim(&["small", "--minutes", "2", "--from", &from]);
    assert!(lawful, "{said}");
}
