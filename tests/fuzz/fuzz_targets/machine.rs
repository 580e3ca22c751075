#![no_main]

use weft_tests::fuzz::{machine, frugal::Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| machine::body(data));
