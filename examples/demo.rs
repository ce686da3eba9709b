//! A swarm on this machine: `cargo run -p shoal --example demo`, with the options of `shoal demo` behind `--`.
//!
//! The nodes are processes of their own, started from this very program: with `serve` as its first argument it is one of them.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "demo" || first == "serve") {
        return shoal::cli::main();
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(_) => return ExitCode::FAILURE,
    };
    match Command::new(program).arg("demo").args(arguments).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
