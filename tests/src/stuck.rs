//! Stopped threads of a process whose other threads run: stopped by a tracer, as a debugger does.

use anyhow::{Context, bail, ensure};
use std::{
    fs, io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

/// How often to check whether the process has exited.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Stopped threads. Dropping it resumes them.
pub struct Stuck {
    release: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Stuck {
    /// Stops every thread of this name in a child of this process.
    ///
    /// # Errors
    /// There is none, or the system does not allow it.
    pub fn threads(pid: u32, name: &'static str) -> anyhow::Result<Self> {
        let (release, released) = channel();
        let (tell, attached) = channel();
        // Only the tracer that stopped a thread can resume it.
        let tracer = thread::spawn(move || match hold(pid, name) {
            Ok(held) => {
                let _ = tell.send(Ok(()));
                wait(held, &released);
            }
            Err(error) => drop(tell.send(Err(error))),
        });
        attached.recv().context("the tracer has ended")??;
        Ok(Self { release: Some(release), tracer: Some(tracer) })
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}

fn hold(pid: u32, name: &str) -> anyhow::Result<Vec<i32>> {
    let mut held = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let named = fs::read_to_string(task.join("comm")).unwrap_or_default();
        if named.trim() != name {
            continue;
        }
        let tid = task.file_name().and_then(|name| name.to_str()?.parse().ok());
        let tid: i32 = tid.context("a thread without a number")?;
        ptrace(libc::PTRACE_SEIZE, tid)?;
        ptrace(libc::PTRACE_INTERRUPT, tid)?;
        while !has_news(tid, 0)? {}
        held.push(tid);
    }
    ensure!(!held.is_empty(), "no thread is called {name}");
    Ok(held)
}

/// Until it is dropped at the other end. A thread that was killed meanwhile must be reaped, or its
/// process would never exit.
fn wait(mut held: Vec<i32>, released: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = released.recv_timeout(LOOK_EVERY) {
        held.retain(|tid| !has_news(*tid, libc::WNOHANG).unwrap_or(true));
    }
    for tid in held {
        let _ = ptrace(libc::PTRACE_DETACH, tid);
    }
}

fn ptrace(request: libc::c_uint, tid: i32) -> anyhow::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests reads or writes memory of either process.
    let done = unsafe { libc::ptrace(request, tid, nothing, nothing) };
    if done == -1 {
        bail!("holding thread {tid}: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Whether a stopped thread has stopped or exited since the last check.
fn has_news(tid: i32, flags: i32) -> anyhow::Result<bool> {
    let mut status = 0;
    // SAFETY: the status is ours.
    match unsafe { libc::waitpid(tid, &raw mut status, flags | libc::__WALL) } {
        -1 => bail!("waiting for thread {tid}: {}", io::Error::last_os_error()),
        seen => Ok(seen == tid),
    }
}
