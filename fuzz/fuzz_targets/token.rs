#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| webhooks_laws::obey("token", bytes));
