//! Messages for people even if the test passes: libtest hides what such a test prints.

use std::{fs::OpenOptions, io::Write};

/// Prints a line to this process's own standard error, which libtest does not capture.
pub fn say(line: &str) {
    // In one write, so that lines of several tests stay whole. Errors don't matter.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints what this machine does not let a test check, and why. Also appends it to the file in
/// `SLOTD_TEST_SKIPPED`, from which `cargo xtask test` prints a summary at its end.
pub fn not_tested(what: &str) {
    say(&format!("NOT TESTED: {what}"));
    if let Some(path) = std::env::var_os("SLOTD_TEST_SKIPPED").filter(|path| !path.is_empty()) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let line = format!("{}\n", what.replace('\n', " "));
        // A report that can't be written is no reason to fail a test.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
