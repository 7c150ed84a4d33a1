//! A wrong wall clock for one process: a library that is loaded before libc's own `clock_gettime`.
//! Monotonic time is unchanged.

use anyhow::{Context, ensure};
use std::process::Command;
use tempfile::TempDir;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    static long shift;
    if (!real) {
        const char *by = getenv("CLOCK_SHIFT_SECONDS");
        shift = by ? atol(by) : 0;
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = real(clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += shift;
    return result;
}
"#;

/// The library. Removed when this is dropped.
#[derive(Debug)]
pub struct WrongClock {
    dir: TempDir,
}

impl WrongClock {
    /// Builds it, with the C compiler that linked this program.
    ///
    /// # Errors
    /// When there is none.
    pub fn build() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("slotd-clock-").tempdir()?;
        let source = dir.path().join("clock.c");
        std::fs::write(&source, SOURCE)?;
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("clock.so"));
        let output = command.arg(&source).arg("-ldl").output().context("cc")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { dir })
    }

    /// The environment that makes a process's clock this many seconds fast.
    pub fn env(&self, seconds: i64) -> [(String, String); 2] {
        let library = self.dir.path().join("clock.so").display().to_string();
        [("LD_PRELOAD".into(), library), ("CLOCK_SHIFT_SECONDS".into(), seconds.to_string())]
    }
}
