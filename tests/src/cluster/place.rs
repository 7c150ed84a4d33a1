//! Where processes run: on the machine's network, or in a network namespace of their own.
//!
//! A [`Place`] is a thread. A thread can have its own network namespace, which its child processes
//! inherit; and a child that asks to be killed with its parent is killed with the *thread* that
//! started it. So a namespace needs no name that could be left behind, and children die with the
//! test, however it ends.

use anyhow::{Context, bail};
use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command},
    sync::{LazyLock, mpsc},
};
use tokio::net::TcpSocket;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that starts processes. Its processes die with it.
pub struct Place {
    jobs: mpsc::Sender<Job>,
    thread: u32,
}

impl Place {
    /// On the machine's own network.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn here() -> anyhow::Result<Self> {
        Self::new(|| Ok(()))
    }

    /// The one on the machine's own network that lasts as long as this process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn lasting() -> anyhow::Result<&'static Self> {
        static LASTING: LazyLock<anyhow::Result<Place>> = LazyLock::new(Place::here);
        LASTING.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))
    }

    /// In a new network namespace, which has only a loopback that is down.
    ///
    /// # Errors
    /// If this machine does not allow it; with the reason.
    pub fn apart() -> anyhow::Result<Self> {
        Self::new(|| {
            // SAFETY: takes a number, touches no memory, and changes this thread only.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
        .context("making a network namespace")
    }

    fn new(enter: impl FnOnce() -> io::Result<()> + Send + 'static) -> anyhow::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, has_entered) = mpsc::channel();
        std::thread::Builder::new().name("place".into()).spawn(move || {
            // SAFETY: takes nothing and cannot fail.
            let thread = unsafe { libc::gettid() };
            let result = enter();
            let failed = result.is_err();
            // The other side waits for it.
            let _ = entered.send(result.map(|()| thread));
            if failed {
                return;
            }
            while let Ok(job) = queue.recv() {
                job();
            }
        })?;
        let thread = has_entered.recv().context("the thread is gone")??;
        Ok(Self { jobs, thread: thread.try_into()? })
    }

    /// The namespace, for `ip link set ... netns`.
    pub fn namespace(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.thread).into()
    }

    /// Runs something in this place and waits for it. Threads that it starts are in this place too;
    /// nothing else can run here meanwhile.
    ///
    /// # Panics
    /// If the work panics.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = mpsc::channel();
        let job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // The other side waits for it.
            let _ = done.send(result);
        });
        let sent = self.jobs.send(job).is_ok();
        match is_done.recv() {
            Ok(Ok(result)) if sent => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            _ => unreachable!("a place lives as long as its handle"),
        }
    }

    /// Starts a process here, in its own process group: a terminal's Ctrl-C is for this process,
    /// which stops its children itself.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        command.process_group(0);
        // SAFETY: only a system call, which is allowed between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        self.run(move || command.spawn())
    }

    /// Runs a command to its end here.
    ///
    /// # Errors
    /// If it can't be started or fails; with its output.
    pub fn command(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.args(args);
        let line = format!("{program} {}", args.join(" "));
        let output = self.run(move || command.output()).with_context(|| line.clone())?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

/// A TCP port on loopback that no other process gets. A process that knows it can listen on it
/// whenever it runs: this socket is bound and does not listen, and both allow the address's reuse.
pub struct ReservedPort {
    pub address: SocketAddr,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// # Errors
    /// When there is no free port.
    pub fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.thread)
    }
}
