//! The `slotd serve` processes of a development cluster. They die with it, however it ends (on
//! Linux). Each logs to its own file; warnings are also shown, line by line, with the node's name.

use super::plan::NodePlan;
use crate::{cli::output, limits};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};
use tracing::Level;

/// A longer line is printed in pieces.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Which lines of the nodes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    All,
    /// While they serve.
    Warnings,
    /// While they start and stop, when missing links and servers are expected.
    Errors,
}

/// The nodes' lines on the terminal.
#[derive(Debug)]
pub struct Console(AtomicU8);

impl Console {
    pub fn new(shown: Shown) -> Arc<Self> {
        Arc::new(Self(AtomicU8::new(shown as u8)))
    }
    /// Applies from now on, unless all are shown.
    pub fn show(&self, shown: Shown) {
        let all = Shown::All as u8;
        let change = |now| (now != all).then_some(shown as u8);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
    /// A line without a level is not a log line: why a node does not start, a panic.
    fn shows(&self, line: &str) -> bool {
        let Some(level) = level(line) else { return true };
        match self.0.load(Ordering::Relaxed) {
            now if now == Shown::All as u8 => true,
            now if now == Shown::Warnings as u8 => level <= Level::WARN,
            _ => level <= Level::ERROR,
        }
    }
}

/// The level of a line of a node's log, in either format.
fn level(line: &str) -> Option<Level> {
    let word = match line.strip_prefix('{') {
        Some(json) => json.split_once("\"level\":\"")?.1.split('"').next()?,
        None => {
            let mut words = line.split_whitespace();
            words.next().filter(|time| time.starts_with(|c: char| c.is_ascii_digit()))?;
            words.next()?
        }
    };
    word.parse().ok().filter(|_| word.bytes().all(|b| b.is_ascii_uppercase()))
}

/// The file with all lines of a node. Lines that can't be written are dropped.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn create(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: File::create(&path)?, path, bytes: 0 })
    }
    fn line(&mut self, line: &str) {
        if self.bytes > limits::CLUSTER_DEV_LOG_BYTES_MAX {
            let _ = std::fs::rename(&self.path, self.path.with_extension("old"));
            if let Ok(new) = File::create(&self.path) {
                (self.file, self.bytes) = (new, 0);
            }
        }
        let line = format!("{line}\n");
        self.bytes += line.len() as u64;
        let _ = self.file.write_all(line.as_bytes());
    }
}

/// One node's process; dropping it kills it.
pub struct Node {
    pub name: String,
    child: Child,
    /// How it ended.
    pub ended: Option<ExitStatus>,
}

impl Node {
    /// Starts `slotd serve` with this program. Must be called on a thread that lives as long as the
    /// node should: on Linux, "dies with the parent" means the parent's thread.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn start(plan: &NodePlan, width: usize, console: &Arc<Console>) -> io::Result<Self> {
        let name = &plan.name;
        let mut file = LogFile::create(plan.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(plan.arguments());
        for (variable, _) in std::env::vars_os() {
            // They concern one node, or only this command.
            let text = variable.to_string_lossy();
            let of_a_node = text.starts_with("SLOTD_") && !text.starts_with("SLOTD_LOG_");
            if of_a_node || text.starts_with("DNS_CLUSTER_") {
                command.env_remove(&variable);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A terminal's Ctrl-C is for us: we stop the nodes gracefully.
        command.process_group(0);
        #[cfg(target_os = "linux")]
        // SAFETY: between fork and exec it only makes one system call.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        if let Some(log) = child.stderr.take() {
            let prefix = format!("{name:width$} | ");
            let console = console.clone();
            let each = move |line: &str| {
                file.line(line);
                if console.shows(line) {
                    output::complain(&format!("{prefix}{line}"));
                }
            };
            // Ends with the process.
            crate::thread::start(format!("log of {name}"), move || lines(log, each))?;
        }
        Ok(Self { name: name.to_owned(), child, ended: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Checks whether it still runs; returns whether it has exited since the last check.
    pub fn has_just_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or_default();
            return self.ended.is_some();
        }
        false
    }

    /// Stops it gracefully.
    pub fn terminate(&self) {
        if self.ended.is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            // The child has not been waited for: the id can't be another process's.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// How it exited, for people.
    pub fn how_it_ended(&self) -> String {
        match self.ended {
            None => "is still running".into(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(0), _) => "exited with code 0".into(),
                (Some(code), _) => format!("exited with code {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => format!("ended: {status}"),
            },
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Passes on each line, without its end; ends with the stream.
fn lines(from: impl Read, mut each: impl FnMut(&str)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a new user would search for the table among forty lines, or be warned of normal
    /// events, or miss real problems.
    #[test]
    fn lines_are_shown_by_their_level() {
        let text = |level: &str| {
            format!("2026-11-29T08:17:10.123456Z {level:>5} slotd::cluster: said ERROR")
        };
        let json =
            |level: &str| format!(r#"{{"timestamp":"2026","level":"{level}","message":"x"}}"#);
        let console = Console::new(Shown::Errors);
        let shown = |console: &Console| {
            let shows = |level: &&&str| [text(level), json(level)].iter().all(|l| console.shows(l));
            ["ERROR", "WARN", "INFO", "DEBUG"].iter().filter(|level| shows(level)).count()
        };
        assert_eq!(shown(&console), 1);
        console.show(Shown::Warnings);
        assert_eq!(shown(&console), 2);
        assert!(console.shows("slotd: the node can't start") && console.shows("{\"error\": 1}"));
        let all = Console::new(Shown::All);
        all.show(Shown::Errors);
        assert_eq!(shown(&all), 4);
    }

    #[test]
    fn a_log_begins_anew_when_it_is_large() {
        let home = tempfile::tempdir().unwrap();
        let mut log = LogFile::create(home.path().join("log")).unwrap();
        log.line("first");
        log.bytes = limits::CLUSTER_DEV_LOG_BYTES_MAX + 1;
        log.line("second");
        let read = |name| std::fs::read_to_string(home.path().join(name)).unwrap();
        assert_eq!((read("log.old"), read("log")), ("first\n".into(), "second\n".into()));
    }

    /// A node that writes without line breaks must not fill the memory or block its log.
    #[test]
    fn long_lines_come_in_pieces() {
        let long = vec![b'x'; LINE_BYTES_MAX as usize + 1];
        let text = [b"one\r\n\n".as_slice(), &long, b"\nlast \xff"].concat();
        let mut seen = Vec::new();
        lines(&text[..], |line| seen.push(line.to_owned()));
        assert_eq!(seen.len(), 5);
        assert_eq!((&*seen[0], &*seen[1], seen[2].len()), ("one", "", LINE_BYTES_MAX as usize));
        assert_eq!((&*seen[3], &*seen[4]), ("x", "last \u{fffd}"));
    }
}
