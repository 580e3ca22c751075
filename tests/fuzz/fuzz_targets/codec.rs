#![no_main]

use weft_tests::fuzz::{codec, frugal::Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| codec::body(data));
