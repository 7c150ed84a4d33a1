//! `slotd serve` processes that a development cluster runs. They die with it, however it ends
//! (on Linux), and what they log comes out line by line under their names.

use super::plan::NodePlan;
use crate::cli::output;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{self, BufRead as _, BufReader, Read},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
};

/// A longer line comes out in pieces.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// One node's process; dropping it kills it.
pub struct Node {
    pub name: String,
    child: Child,
    /// How it ended.
    pub ended: Option<ExitStatus>,
}

impl Node {
    /// Starts `slotd serve` of this very program. Must be called on a thread that lives as long as
    /// the node should: to Linux, "dies with the parent" means the parent's thread.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn start(plan: &NodePlan, width: usize) -> io::Result<Self> {
        let name = &plan.name;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(plan.arguments());
        for (variable, _) in std::env::vars_os() {
            // They are about one node, or about this one command.
            let text = variable.to_string_lossy();
            let of_a_node = text.starts_with("SLOTD_") && !text.starts_with("SLOTD_LOG_");
            if of_a_node || text.starts_with("DNS_CLUSTER_") {
                command.env_remove(&variable);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A terminal's Ctrl-C is for us: we stop them in an orderly way.
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
            // Ends with the process.
            std::thread::Builder::new()
                .name(format!("log of {name}"))
                .spawn(move || lines(log, |line| output::complain(&format!("{prefix}{line}"))))?;
        }
        Ok(Self { name: name.to_owned(), child, ended: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Looks whether it still runs; whether it has ended since the last look.
    pub fn has_just_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or_default();
            return self.ended.is_some();
        }
        false
    }

    /// Has it stop in an orderly way.
    pub fn terminate(&self) {
        if self.ended.is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            // Of a child that was not waited for: the id can't be another's.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// How it ended, for a person.
    pub fn how_it_ended(&self) -> String {
        match self.ended {
            None => "still runs".into(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(0), _) => "has ended in an orderly way".into(),
                (Some(code), _) => format!("has ended with exit code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => format!("has ended: {status}"),
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

/// Gives each line, without its end; ends with the stream.
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

    /// A node that writes without line breaks must not fill the memory, nor hold up its log.
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
