#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkscope_fuzz::decode(data));
