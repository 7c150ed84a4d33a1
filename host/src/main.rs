use std::process::ExitCode;

fn main() -> ExitCode {
    slotd::memory::keep_under_load();
    slotd::cli::main()
}
