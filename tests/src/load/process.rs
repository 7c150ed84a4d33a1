//! The load generator as a separate process: the program `load`.

use super::{Extent, Outcome, Plan, Protocol};
use crate::node::sibling;
use anyhow::ensure;
use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

impl Plan {
    /// POST requests for this many seconds, with 64 connections and 10,000 sessions.
    pub fn timed(address: SocketAddr, service: &str, measure: f64) -> Self {
        let measure = Duration::from_secs_f64(measure);
        Self {
            address,
            service: service.to_owned(),
            protocol: Protocol::Http,
            connections: 64,
            in_flight: 1,
            sessions: 10_000,
            body: vec![b'x'; 32],
            seed: 1,
            extent: Extent::Timed { warm_up: Duration::from_secs(1), measure },
            ca: None,
            gives_way: false,
        }
    }

    /// One message to each of this many sessions.
    pub fn each_once(address: SocketAddr, service: &str, sessions: u64) -> Self {
        Self { sessions, extent: Extent::EachOnce, ..Self::timed(address, service, 0.0) }
    }

    /// Starts a process for it. Only the length of the body is passed on.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn spawn(&self) -> anyhow::Result<Child> {
        let load = sibling("load")?;
        let mut command = match self.gives_way {
            true => {
                let mut nice = Command::new("nice");
                nice.args(["-n", "10"]).arg(load);
                nice
            }
            false => Command::new(load),
        };
        let mut arg = |name: &str, value: String| {
            command.args([name, &value]);
        };
        let protocol = match self.protocol {
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Socket => "socket",
            Protocol::Redis => "redis",
        };
        arg("--address", self.address.to_string());
        arg("--service", self.service.clone());
        arg("--protocol", protocol.into());
        arg("--connections", self.connections.to_string());
        arg("--in-flight", self.in_flight.to_string());
        arg("--sessions", self.sessions.to_string());
        arg("--body-bytes", self.body.len().to_string());
        arg("--seed", self.seed.to_string());
        if let Some(ca) = &self.ca {
            arg("--ca", ca.to_string_lossy().into_owned());
        }
        match self.extent {
            Extent::Timed { warm_up, measure } => {
                arg("--warm-up", warm_up.as_secs_f64().to_string());
                arg("--measure", measure.as_secs_f64().to_string());
            }
            Extent::EachOnce => {
                command.arg("--each-once");
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// Runs it in a separate process.
    ///
    /// # Errors
    /// When the process fails, or a message of it.
    pub async fn run_apart(&self) -> anyhow::Result<Outcome> {
        let outcome = ended(self.spawn()?).await?;
        let (failed, first) = (outcome.failed, &outcome.first_failure);
        ensure!(failed == 0, "{failed} failed, first {first:?}");
        Ok(outcome)
    }
}

/// Waits for such a process. Messages may have failed.
///
/// # Errors
/// When the process does.
pub async fn ended(load: Child) -> anyhow::Result<Outcome> {
    let output = tokio::task::spawn_blocking(move || load.wait_with_output()).await??;
    ensure!(output.status.success(), "the load generator ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}
