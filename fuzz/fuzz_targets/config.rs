//! Configuration files, environments and flags: what is shown of a configuration gives the same one when it is read again.
//!
//! The input is the file, and behind a NUL each variable of the environment (`SHOAL_…=value`) or flag (`--name=value`).

#![no_main]

#[allow(dead_code, unused_imports)]
#[path = "../../node/src/config/mod.rs"]
mod config;

use config::{FileText, parse, show};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let mut parts = input.split('\0');
    let file = parts.next().map(|text| FileText { path: "shoal.toml", text });
    let (mut env, mut flags) = (Vec::new(), Vec::new());
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.strip_prefix("--") {
            Some(name) => flags.push((name.to_owned(), value.to_owned())),
            None => env.push((name.to_owned(), value.to_owned())),
        }
    }
    match parse(file, &env, &flags) {
        Ok(effective) => {
            assert!(effective.config.low_watermark < effective.config.high_watermark);
            show::json(&effective).to_string();
            let text = show::toml(&effective);
            let shown = FileText { path: "shown", text: &text };
            match parse(Some(shown), &[], &[]) {
                Ok(again) => assert_eq!(again.config, effective.config),
                Err(error) => panic!("{error} in\n{text}"),
            }
        }
        Err(error) => assert!(!error.to_string().contains('\0'), "{error:?}"),
    }
});
