//! Shows each step: every program is announced before it runs, and its output is passed on
//! unchanged.

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::{
    fmt,
    io::{self, Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

/// Runs other programs and reports on them.
pub struct Steps {
    tell: Box<dyn Fn(&str) + Send + Sync>,
    /// Waits until what was told is written, before a program writes to the same stream.
    flush: Box<dyn Fn() + Send + Sync>,
    /// Show programs' output only if they fail.
    quiet: bool,
    /// If they can be stopped: the running one, as the leader of its own process group.
    stoppable: Option<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    group: Option<Pid>,
    stopped: bool,
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("quiet", &self.quiet).finish_non_exhaustive()
    }
}

impl Steps {
    /// For people: everything goes to standard error; standard output is for the result.
    pub fn shown() -> Self {
        let tell = |what: &str| show(format!("slotd: {what}\n").as_bytes());
        Self { tell: Box::new(tell), flush: Box::new(|| ()), quiet: false, stoppable: None }
    }

    /// For programs: nothing is shown, except the output of a program that failed.
    pub fn quiet() -> Self {
        Self { tell: Box::new(|_| ()), flush: Box::new(|| ()), quiet: true, stoppable: None }
    }

    /// Reports to `tell`, which may write later: `flush` waits for that, before a program writes
    /// to standard error itself. [`Self::stop`] ends what runs.
    pub fn stoppable(
        tell: impl Fn(&str) + Send + Sync + 'static,
        flush: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (tell, flush) = (Box::new(tell), Box::new(flush));
        Self { tell, flush, quiet: false, stoppable: Some(Mutex::default()) }
    }

    /// Reports the current step, like `fetching esbuild 0.28.1 with npm`.
    pub fn say(&self, what: impl fmt::Display) {
        (self.tell)(&what.to_string());
    }

    /// Reports `what` (if anything) and runs a program to its end. All of its output goes to
    /// standard error.
    ///
    /// # Errors
    /// If it does not start, or fails.
    pub fn run(&self, what: &str, command: &mut Command) -> anyhow::Result<()> {
        command.stdout(if self.quiet { Stdio::piped() } else { Stdio::from(io::stderr()) });
        self.finish(what, command).map(|_| ())
    }

    /// As [`Self::run`], returning its standard output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn read(&self, what: &str, command: &mut Command) -> anyhow::Result<Vec<u8>> {
        command.stdout(Stdio::piped());
        self.finish(what, command)
    }

    /// Reports `what` (if anything) and runs one of the user's own programs, as if they had typed
    /// it. The caller judges its exit status.
    ///
    /// # Errors
    /// If it does not start.
    pub fn pass(&self, what: &str, command: &mut Command) -> anyhow::Result<ExitStatus> {
        self.announce(what);
        let child = self.spawn(command)?;
        let line = command_line(command);
        self.wait(child).with_context(|| format!("waiting for `{line}`"))
    }

    fn finish(&self, what: &str, command: &mut Command) -> anyhow::Result<Vec<u8>> {
        self.announce(what);
        command.stdin(Stdio::null());
        command.stderr(if self.quiet { Stdio::piped() } else { Stdio::inherit() });
        let line = command_line(command);
        let mut child = self.spawn(command)?;
        // Read in parallel: a program that fills one pipe must not wait for the other's reader.
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (status, out, err) = thread::scope(|scope| {
            let out = scope.spawn(|| read_all(out));
            let err = scope.spawn(|| read_all(err));
            (self.wait(child), out.join().unwrap_or_default(), err.join().unwrap_or_default())
        });
        let status = status.with_context(|| format!("waiting for `{line}`"))?;
        if status.success() {
            return Ok(out);
        }
        if self.quiet {
            show(&out);
            show(&err);
        }
        ensure!(!self.is_stopped(), "stopped");
        anyhow::bail!("`{line}` failed ({status}); its output is above")
    }

    fn announce(&self, what: &str) {
        if !what.is_empty() {
            self.say(what);
        }
    }

    fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        let line = command_line(command);
        let starting = || format!("starting `{line}`");
        // The program writes to the same stream: the report comes first.
        (self.flush)();
        let Some(stoppable) = &self.stoppable else {
            return command.spawn().with_context(starting);
        };
        let mut running = stoppable.lock();
        ensure!(!running.stopped, "stopped");
        let child = command.process_group(0).spawn().with_context(starting)?;
        running.group = Some(Pid::from_child(&child));
        Ok(child)
    }

    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        if let Some(stoppable) = &self.stoppable {
            // Its id is forgotten before it is released to the system, so that `stop` can't hit
            // another program that got it since.
            let (it, how) =
                (Pid::from_child(&child), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(it), how) {}
            stoppable.lock().group = None;
        }
        child.wait()
    }

    /// Ends what runs, if it can be stopped, and prevents further programs.
    pub fn stop(&self) {
        let Some(stoppable) = &self.stoppable else { return };
        let mut running = stoppable.lock();
        running.stopped = true;
        if let Some(group) = running.group {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stoppable.as_ref().is_some_and(|stoppable| stoppable.lock().stopped)
    }
}

/// Writes to standard error; errors are ignored.
fn show(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}

fn read_all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// A command as typed, without its variables.
pub fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// A program's failure must not look like a result, and its path must be named.
    #[test]
    fn failures_are_told_with_the_command() -> anyhow::Result<()> {
        let steps = Steps::quiet();
        assert_eq!(steps.read("", &mut sh("echo out; echo err >&2"))?, b"out\n");
        let failed = steps.run("", &mut sh("exit 3")).unwrap_err().to_string();
        assert!(failed.contains("`sh -c exit 3` failed (exit status: 3)"), "{failed}");
        let missing = steps.run("", &mut Command::new("/no/such/program")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/program"), "{missing}");
        assert_eq!(steps.pass("", &mut sh("exit 5"))?.code(), Some(5));
        Ok(())
    }

    /// Pipes hold 64 KiB: a program that writes more to each must not hang.
    #[test]
    fn much_output_does_not_block() -> anyhow::Result<()> {
        let loud = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero";
        assert_eq!(Steps::quiet().read("", &mut sh(loud))?.len(), 300_000);
        Ok(())
    }

    /// Without it, a compiler would continue after Ctrl-C had ended `slotd dev`.
    #[test]
    fn stopping_ends_the_whole_group_and_what_would_follow() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let began = dir.path().join("began");
        let script =
            format!("sh -c 'echo $$ > {0}.part; mv {0}.part {0}; sleep 600'", began.display());
        let steps = Arc::new(Steps::stoppable(|_| (), || ()));
        let other = steps.clone();
        let running = thread::spawn(move || other.run("", &mut sh(&script)));
        while !began.exists() {
            thread::yield_now();
        }
        steps.stop();
        let stopped = running.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        assert_eq!(stopped.unwrap_err().to_string(), "stopped");
        let child = std::fs::read_to_string(&began)?;
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        // One that has exited and was not waited for is a zombie.
        while stat().is_ok_and(|stat| !stat.contains(") Z ")) {
            thread::yield_now();
        }
        assert_eq!(steps.run("", &mut sh("exit 0")).unwrap_err().to_string(), "stopped");
        Ok(())
    }
}
