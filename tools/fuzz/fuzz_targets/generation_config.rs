#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| tiny_t5_fuzz::check(tiny_t5_fuzz::generation_config, input));
