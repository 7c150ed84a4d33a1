//! The ceiling's process.

use anyhow::Context;
use slotd_tests::{cluster::place::Place, http::Client, node::sibling};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

/// It dies with its handle, or with this process.
pub struct Ceiling {
    child: Child,
    pub address: SocketAddr,
    /// Where it takes WebSockets.
    pub sockets: SocketAddr,
}

#[derive(serde::Deserialize)]
pub struct CeilingStats {
    pub messages: f64,
    pub syncs: f64,
}

impl Ceiling {
    pub fn start(file: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(sibling("ceiling")?);
        command.arg("--file").arg(file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Place::lasting()?.spawn(command)?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let addresses = line.trim().strip_prefix("listening on ").context("no address")?;
        let (address, sockets) = addresses.split_once(' ').context("one address")?;
        Ok(Self { child, address: address.parse()?, sockets: sockets.parse()? })
    }

    pub async fn stats(&self) -> anyhow::Result<CeilingStats> {
        Client::new(self.address).get("/stats").await?.success()?.json()
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It keeps nothing that is worth an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
