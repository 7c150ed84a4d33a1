//! The child's side: `slotd compile-component`, which only slotd itself calls.

use super::{Report, Task, work};
use crate::limits;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, setrlimit};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
};

/// The command; not shown in the help.
pub const COMMAND: &str = "compile-component";
/// Begins the line of the report.
pub(super) const MARK: &str = "slotd-compile-1 ";

/// The parent's arguments on the command line, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub task: Task,
    pub memory_bytes: u64,
    /// Processor time.
    pub seconds: u64,
    /// How far it gives way to others, as for nice(1).
    pub nice: i32,
    /// The process that is served.
    pub parent: i32,
}

impl Arguments {
    pub(super) fn to_words(self) -> Vec<String> {
        let mut words = match self.task {
            Task::Inspect => vec!["inspect".to_owned()],
            Task::Compile { digest, compatibility } => {
                vec!["compile".to_owned(), digest.to_string(), compatibility.to_string()]
            }
        };
        words.extend([self.memory_bytes, self.seconds].map(|n| n.to_string()));
        words.extend([self.nice, self.parent].map(|n| n.to_string()));
        words
    }

    pub(super) fn parse(words: &[String]) -> Option<Self> {
        let (task, rest) = match words {
            [task, rest @ ..] if task == "inspect" => (Task::Inspect, rest),
            [task, digest, compatibility, rest @ ..] if task == "compile" => {
                let compatibility = compatibility.parse().ok()?;
                (Task::Compile { digest: digest.parse().ok()?, compatibility }, rest)
            }
            _ => return None,
        };
        let [memory, seconds, nice, parent] = rest else { return None };
        Some(Self {
            task,
            memory_bytes: memory.parse().ok()?,
            seconds: seconds.parse().ok()?,
            nice: nice.parse().ok()?,
            parent: parent.parse().ok()?,
        })
    }
}

/// Runs the command. A panic shows on standard error as Rust's own hook writes it.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Option<Vec<String>> = words.map(|word| word.into_string().ok()).collect();
    let Some(arguments) = words.as_deref().and_then(Arguments::parse) else {
        eprintln!("`{COMMAND}` is internal to slotd; use `slotd plugin check FILE`");
        return ExitCode::from(2);
    };
    let report = match prepare(arguments) {
        Ok(()) => serve(arguments.task),
        Err(e) => Report::Failed(format!("the compiler process can't set its limits: {e}")),
    };
    // A report is made of text and numbers: it is always JSON.
    let line = serde_json::to_string(&report).unwrap_or_default();
    let _ = writeln!(io::stderr(), "\n{MARK}{line}");
    ExitCode::SUCCESS
}

fn serve(task: Task) -> Report {
    let mut component = Vec::new();
    let max = limits::COMPONENT_BYTES_MAX as u64 + 1;
    if let Err(e) = io::stdin().take(max).read_to_end(&mut component) {
        return Report::Failed(format!("the component did not arrive: {e}"));
    }
    let out = match task {
        Task::Inspect => None,
        Task::Compile { .. } => match io::stdout().as_fd().try_clone_to_owned() {
            Ok(out) => Some(File::from(out)),
            Err(e) => return Report::Failed(format!("there is no file for the code: {e}")),
        },
    };
    work(task, &component, out)
}

/// Limits this process before it reads anything.
fn prepare(arguments: Arguments) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // Where memory runs out all the same, the kernel is to end this and not the node. Anyone
        // may raise it; where /proc is not there it stays as it is.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    // It may have died before.
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|pid| pid.get() != arguments.parent) {
        std::process::exit(1);
    }
    let limit =
        |what, most: u64| setrlimit(what, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::As, arguments.memory_bytes)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, limits::COMPILED_BYTES_MAX)?;
    limit(Resource::Nofile, limits::COMPILE_FILES_MAX)?;
    // At the first the process gets a signal that shows why it ends, at the second it is killed.
    let (soft, hard) = (arguments.seconds, arguments.seconds.saturating_add(5));
    setrlimit(Resource::Cpu, Rlimit { current: Some(soft), maximum: Some(hard) })?;
    crate::plugin::workers::give_way(arguments.nice);
    // Threads that wasmtime compiles on; they inherit the priority.
    rayon::ThreadPoolBuilder::new().num_threads(threads()).build_global().map_err(io::Error::other)
}

/// Threads that compile one component.
pub(super) fn threads() -> usize {
    crate::thread::processors().min(limits::COMPILE_THREADS_MAX)
}
