#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| duality::fuzzing::query(text));
