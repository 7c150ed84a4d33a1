use std::process::ExitCode;

/// A message makes dozens of small allocations on one thread that are freed on another; with
/// glibc's allocator they took a sixth of a node's time (docs/benchmark.md). What a burst or a
/// compilation has freed goes back to the system by itself, after some seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    slotd::cli::main()
}
