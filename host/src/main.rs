use std::process::ExitCode;

fn main() -> ExitCode {
    slotd::cli::main()
}
