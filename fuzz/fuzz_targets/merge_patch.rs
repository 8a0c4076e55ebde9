#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| duality::fuzzing::merge_patch(bytes, json_patch::merge));
