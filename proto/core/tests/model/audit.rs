//! The recount in bounded pieces finds what the slow and obvious one finds, also in damaged records.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use weft_core::machine;
use weft_core::namespace::audit::Audit;

use crate::{Pair, roll};

/// All of it, in pieces of so many records and windows of so many inodes.
fn audit(records: &BTreeMap<Bytes, Bytes>, window: usize, piece: usize) -> Vec<String> {
    let mut audit = Audit::new(records, None, window).expect("a map in memory does not fail");
    let mut wrong = Vec::new();
    for _ in 0..100_000 {
        let more = audit.step(records, piece).expect("a map in memory does not fail");
        wrong.extend(audit.take_wrong());
        if !more {
            wrong.sort();
            return wrong;
        }
    }
    panic!("no end of it")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn pieces_find_what_the_whole_finds(
        rolls in prop::collection::vec(roll(), 1..80),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        swapped in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 0..3),
        (window, piece) in (1usize..8, 1usize..8),
    ) {
        let mut pair = Pair::new();
        rolls.iter().for_each(|roll| pair.step(roll));
        let mut records = pair.records.clone();
        prop_assert_eq!(audit(&records, window, piece), Vec::<String>::new());
        // Records of volumes and counts of chunks get lost, or get the value of another of their table.
        for index in lost {
            let keys: Vec<Bytes> = records.keys().filter(|key| key[0] == 0x09 || key[0] == 0x10).cloned().collect();
            if !keys.is_empty() {
                records.remove(index.get(&keys));
            }
        }
        for [from, to] in swapped {
            let from = records.iter().nth(from.index(records.len())).map(|(key, value)| (key.clone(), value.clone()));
            let Some((from, value)) = from else { continue };
            let table = |key: &Bytes| key.get(..if key[0] == 0x10 { 10 } else { 1 }).map(<[u8]>::to_vec);
            let alike: Vec<Bytes> = records.keys().filter(|key| table(key) == table(&from)).cloned().collect();
            if from[0] == 0x09 || from[0] == 0x10 {
                records.insert(to.get(&alike).clone(), value);
            }
        }
        let mut whole = machine::recount(&records).expect("a map in memory does not fail");
        whole.sort();
        prop_assert_eq!(audit(&records, window, piece), whole);
    }
}
