//! The node's side: starts a child, feeds it, waits, and interprets how it ended.

use super::{
    CompileOptions, Report, Task,
    child::{self, Arguments, MARK},
};
use crate::{limits, plugin::PluginError};
use bytes::Bytes;
use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    sync::oneshot,
};
#[cfg(target_os = "linux")]
use {
    rustix::process::{Pid, PidfdFlags, pidfd_open},
    tokio::io::{Interest, unix::AsyncFd},
};

/// What is executed; the child's arguments follow.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
}

impl Program {
    /// This very program, also when its file was replaced or removed meanwhile.
    pub(super) fn own() -> Self {
        let path = match cfg!(target_os = "linux") {
            true => PathBuf::from("/proc/self/exe"),
            false => std::env::current_exe().unwrap_or_else(|_| "slotd".into()),
        };
        Self { path, arguments: vec![child::COMMAND.into()] }
    }
}

/// Starts children on one thread, which lives as long as this does: to Linux, "dies with the
/// parent" means the parent's thread.
pub(super) struct Starter {
    program: Program,
    orders: mpsc::Sender<Order>,
}

enum Order {
    /// The sender is for the child that runs then.
    Start(Command, mpsc::Sender<Order>, oneshot::Sender<io::Result<Running>>),
    /// It was killed: freeing a gigabyte takes a moment, in which nobody else need wait.
    Collect(Child),
}

/// A child, killed when no client is waiting for it any more.
struct Running {
    child: Option<Child>,
    orders: mpsc::Sender<Order>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // An error means that it has ended.
        let _ = child.kill();
        let collect = self.orders.send(Order::Collect(child));
        if let Err(mpsc::SendError(Order::Collect(mut child))) = collect {
            let _ = child.wait();
        }
    }
}

impl Running {
    /// Waits for its end.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let gone = || io::Error::other("there is no such process");
        let child = self.child.as_mut().ok_or_else(gone)?;
        #[cfg(target_os = "linux")]
        if let Some(pid) = Pid::from_raw(child.id() as i32)
            && let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty())
        {
            // SAFETY: it owns the descriptor, and nothing else closes it or changes what it is.
            let descriptor =
                unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
            loop {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
                descriptor.readable().await?.clear_ready();
            }
        }
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(limits::COMPILE_LOOK).await;
        }
    }

    /// Writes the component to the child and reads its output to the end.
    async fn attend(&mut self, component: Bytes) -> io::Result<(ExitStatus, Vec<u8>)> {
        let child = self.child.as_mut();
        let (stdin, stderr) =
            child.map_or((None, None), |child| (child.stdin.take(), child.stderr.take()));
        let stdin = stdin.map(|pipe| pipe::Sender::from_owned_fd(pipe.into())).transpose()?;
        let stderr = stderr.map(|pipe| pipe::Receiver::from_owned_fd(pipe.into())).transpose()?;
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // One that ends early takes no more; why it did so is found in how it ends.
                let _ = stdin.write_all(&component).await;
            }
        };
        let hear = async move {
            let mut text = Vec::new();
            if let Some(stderr) = stderr {
                let max = limits::COMPILE_REPORT_BYTES_MAX as u64;
                // A child that writes more is cut off, and ends by SIGPIPE.
                let _ = stderr.take(max).read_to_end(&mut text).await;
            }
            text
        };
        let ((), stderr, status) = tokio::join!(feed, hear, self.ended());
        Ok((status?, stderr))
    }
}

impl Starter {
    pub(super) fn new(program: Program) -> Result<Self, PluginError> {
        let (orders, receiver) = mpsc::channel::<Order>();
        let work = move || {
            while let Ok(order) = receiver.recv() {
                match order {
                    Order::Start(mut command, orders, reply) => {
                        let child = command.spawn();
                        // Killed as it is dropped: here, or on its way, if whoever wanted it is gone.
                        let _ =
                            reply.send(child.map(|child| Running { child: Some(child), orders }));
                    }
                    Order::Collect(mut child) => drop(child.wait()),
                }
            }
        };
        let started = crate::thread::start("slotd-compile", work);
        started.map_err(|e| PluginError::Failed(format!("can't start a compiler thread: {e}")))?;
        Ok(Self { program, orders })
    }

    async fn start(&self, command: Command) -> io::Result<Running> {
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        let order = Order::Start(command, self.orders.clone(), reply);
        self.orders.send(order).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }

    /// Runs one child to its end or its deadline; kills it when the future is dropped.
    pub(super) async fn run(
        &self,
        task: Task,
        component: Bytes,
        out: Option<File>,
        nice: i32,
        options: CompileOptions,
    ) -> Result<Report, PluginError> {
        let arguments = Arguments {
            task,
            memory_bytes: options.memory_bytes,
            seconds: options.deadline.as_secs().max(1) * child::threads() as u64,
            nice,
            parent: i32::try_from(std::process::id()).unwrap_or(0),
        };
        let mut command = Command::new(&self.program.path);
        command.arg0("slotd").args(&self.program.arguments).args(arguments.to_words());
        command.env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        command.stdout(out.map_or_else(Stdio::null, Stdio::from));
        // A terminal's Ctrl-C is for the node, which ends its children itself.
        command.process_group(0);
        let mut running = self
            .start(command)
            .await
            .map_err(|e| PluginError::Busy(format!("can't start the compiler process: {e}")))?;
        match tokio::time::timeout(options.deadline, running.attend(component)).await {
            Ok(Ok((status, stderr))) => explain(status, &stderr, options),
            Ok(Err(e)) => Err(PluginError::Busy(format!("lost the compiler process: {e}"))),
            Err(_) => {
                let pid = running.child.as_ref().map(Child::id);
                Err(late(pid.and_then(processor_time), options))
            }
        }
    }
}

/// What a child used of the processor, as far as the system reports it.
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()?.saturating_add(ticks()?);
    Some(Duration::from_millis(
        ticks.saturating_mul(1_000) / rustix::param::clock_ticks_per_second().max(1),
    ))
}

/// Past its deadline: too much work, or too little of the processor to do it?
fn late(used: Option<Duration>, options: CompileOptions) -> PluginError {
    let deadline = options.deadline;
    match used {
        Some(used) if used < deadline / 2 => PluginError::Busy(format!(
            "compiling it got only {used:.0?} of processor time within {deadline:?} \
             (guests.compile_deadline): the node is too busy"
        )),
        _ => too_long(options),
    }
}

fn too_long(options: CompileOptions) -> PluginError {
    PluginError::TooCostly(format!(
        "checking and compiling it takes longer than {:?} (guests.compile_deadline)",
        options.deadline
    ))
}

fn too_much_memory(options: CompileOptions) -> PluginError {
    PluginError::TooCostly(format!(
        "checking and compiling it takes more than {} MiB of memory (guests.compile_memory)",
        options.memory_bytes >> 20
    ))
}

/// The meaning of a child's exit status and output.
pub(super) fn explain(
    status: ExitStatus,
    stderr: &[u8],
    options: CompileOptions,
) -> Result<Report, PluginError> {
    let stderr = String::from_utf8_lossy(stderr);
    let report = stderr.lines().rev().find_map(|line| line.strip_prefix(MARK));
    if let Some(report) = report.filter(|_| status.success()) {
        return serde_json::from_str(report)
            .map_err(|e| PluginError::Crashed(format!("can't read the compiler's result: {e}")));
    }
    if ["memory allocation of ", "Cannot allocate memory"].iter().any(|sign| stderr.contains(sign))
    {
        return Err(too_much_memory(options));
    }
    if stderr.contains("has overflowed its stack") {
        return Err(PluginError::TooCostly(
            "checking and compiling it overflows the compiler's stack: something in it, most \
             likely types, is nested too deeply"
                .to_owned(),
        ));
    }
    Err(match status.signal() {
        Some(libc::SIGXCPU) => too_long(options),
        Some(libc::SIGXFSZ) => PluginError::TooCostly(format!(
            "its native code has more than {} MiB",
            limits::COMPILED_BYTES_MAX >> 20
        )),
        Some(libc::SIGKILL | libc::SIGTERM | libc::SIGINT) => PluginError::Busy(format!(
            "the compiler process was killed ({status}): by the kernel, because the machine or \
             container ran out of memory, or by someone"
        )),
        _ => {
            let last = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(3);
            let last = last.collect::<Vec<_>>().join("; ");
            PluginError::Crashed(crate::plugin::check::shortened(
                format!("the compiler process crashed ({status}): {last}"),
                limits::COMPONENT_PROBLEM_BYTES_MAX,
            ))
        }
    })
}
