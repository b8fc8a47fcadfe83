#![no_main]

#[path = "../judge.rs"]
#[allow(dead_code)]
mod judge;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| judge::config(bytes));
