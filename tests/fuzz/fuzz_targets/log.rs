#![no_main]

use weft_tests::fuzz::{log, frugal::Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| log::body(data));
