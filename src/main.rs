//! The binary: everything is in the library, so that tests and benchmarks reach it too.

/// An attempt's texts are made by one thread and freed by another, for which the system's allocator has no liking:
/// it took a quarter of the service's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    xtwebhooks::cli::main()
}
