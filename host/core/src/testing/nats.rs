//! A NATS server for a test.
#![allow(clippy::unwrap_used)]

use crate::nats::{Nats, NatsOptions};
use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A NATS server of this test's own, that ends with it.
pub struct Server {
    child: Child,
    port: u16,
    home: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let child = Self::spawn(&home, -1);
        let mut this = Self { child, port: 0, home };
        this.port = this.ready().await;
        this
    }

    fn spawn(home: &tempfile::TempDir, port: i32) -> Child {
        use std::os::unix::process::CommandExt as _;
        let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/nats-server");
        let found = std::env::var("SLOTD_NATS_SERVER").unwrap_or_else(|_| tools.to_owned());
        let mut command = Command::new(found);
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]);
        command.arg(home.path().join("js")).arg("--ports_file_dir").arg(home.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command.spawn().unwrap()
    }

    /// The port, once the server has written it down.
    async fn ready(&self) -> u16 {
        for _ in 0..1_000 {
            for entry in std::fs::read_dir(self.home.path()).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let ours = name.ends_with(&format!("_{}.ports", self.child.id()));
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let text = text.split("127.0.0.1:").nth(1).unwrap_or_default();
                let digits = text.split(|c: char| !c.is_ascii_digit()).next();
                if let Some(port) = digits.and_then(|digits| digits.parse().ok()).filter(|_| ours) {
                    return port;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nats-server did not start");
    }

    /// A connection for a cluster of its own.
    pub async fn connect(&self) -> Nats {
        let random = crate::random::id();
        self.connect_as(&format!("t{random:x}")).await
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`Server::kill`]: on the same port and files.
    pub fn start_again(&mut self) {
        self.child = Self::spawn(&self.home, self.port.into());
    }

    pub async fn connect_as(&self, cluster: &str) -> Nats {
        let options = NatsOptions {
            servers: vec![format!("nats://127.0.0.1:{}", self.port)],
            credentials: None,
            tls: Default::default(),
            cluster: cluster.to_owned(),
            replicas: 1,
            streams: 1,
            boot_wait: Duration::from_secs(5),
        };
        Nats::connect(options).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
