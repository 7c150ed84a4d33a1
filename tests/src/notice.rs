//! What a person is to see although the test passes: libtest keeps what such a test prints to itself.

use std::{fs::OpenOptions, io::Write};

/// Says a line on this process's own standard error, which libtest does not capture.
pub fn say(line: &str) {
    // At once, so that lines of several tests stay whole. Nobody may be there to read it.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says what this machine does not let a test show, and why. Also appends it to the file that
/// `SLOTD_TEST_SKIPPED` names: `cargo xtask test` collects there what it repeats at its end.
pub fn not_tested(what: &str) {
    say(&format!("NOT TESTED: {what}"));
    if let Some(path) = std::env::var_os("SLOTD_TEST_SKIPPED").filter(|path| !path.is_empty()) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let line = format!("{}\n", what.replace('\n', " "));
        // A report that can't be written is no reason to fail a test.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
