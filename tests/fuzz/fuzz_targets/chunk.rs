#![no_main]

use weft_tests::fuzz::{chunk, frugal::Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| chunk::body(data));
