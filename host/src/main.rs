use std::process::ExitCode;

/// Every message allocates on one thread and is freed on another, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    slotd::cli::main()
}
