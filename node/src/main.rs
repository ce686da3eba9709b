//! The `shoal` program.

/// musl's allocator costs half the throughput, and glibc's keeps what a burst took.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    shoal::cli::main()
}
