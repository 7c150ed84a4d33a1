//! Applies the faults of a schedule to a cluster.

use super::{
    effects::SERVICE,
    load::ANSWER_TIMEOUT,
    probe::Probes,
    record::{Caller, ReadKind, Recorder},
    schedule::{Fault, NodeNumber, Planned},
};
use crate::{
    cluster::{Cluster, Member, net::HostId},
    node::eventually,
    plugins,
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Time for the others to serve a paused node's slots: membership must notice it first.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(60);
/// Time for a node to report that all slots run a version, before another one is asked.
const DEPLOYED_WITHIN: Duration = Duration::from_secs(30);
/// For all nodes together, while one after the other does not answer.
const SWAPPED_WITHIN: Duration = Duration::from_secs(90);
/// Messages and reads queued at a paused node: the first that the zombie answers.
const WAITING_AT_ZOMBIE: u32 = 16;

/// What faults act on.
pub struct Scene {
    pub cluster: Cluster,
    pub probes: Probes,
    pub recorder: Arc<Recorder>,
    pub swaps: AtomicU64,
    /// Nodes that were paused until others had taken over, and resumed.
    pub pauses: AtomicU64,
}

impl Scene {
    /// One fault of a turn from start to end. Operators contact nodes that are not `befallen`
    /// first.
    ///
    /// # Errors
    /// If the fault can't be caused, or an operator's command fails.
    pub async fn inflict(
        &self,
        planned: Planned,
        befallen: &BTreeSet<NodeNumber>,
    ) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_millis(planned.begin_after_ms)).await;
        let hold = Duration::from_millis(planned.hold_ms);
        let done = self.begin_and_end(planned.fault, hold, befallen).await;
        done.with_context(|| format!("{:?}", planned.fault))
    }

    async fn begin_and_end(
        &self,
        fault: Fault,
        hold: Duration,
        befallen: &BTreeSet<NodeNumber>,
    ) -> anyhow::Result<()> {
        let cluster = &self.cluster;
        match fault {
            Fault::Kill(number) => {
                let member = cluster.member(number)?;
                member.node.lock().await.kill()?;
                tokio::time::sleep(hold).await;
                cluster.restart(&member).await
            }
            Fault::Pause(number) => self.pause(number, hold, befallen).await,
            Fault::CutFromPeers(number) => self.cut(number, hold, Ways::BOTH, Ways::NONE).await,
            Fault::CutFromEngine(number) => self.cut(number, hold, Ways::NONE, Ways::BOTH).await,
            Fault::CutFromBoth(number) => self.cut(number, hold, Ways::BOTH, Ways::BOTH).await,
            Fault::PeersDontHear(number) => self.cut(number, hold, Ways::FROM, Ways::NONE).await,
            Fault::DoesntHearPeers(number) => self.cut(number, hold, Ways::TO, Ways::NONE).await,
            Fault::EngineDoesntHear(number) => self.cut(number, hold, Ways::NONE, Ways::FROM).await,
            Fault::DoesntHearEngine(number) => self.cut(number, hold, Ways::NONE, Ways::TO).await,
            Fault::KillServer(server) => {
                cluster.engine.kill(server as usize)?;
                tokio::time::sleep(hold).await;
                cluster.engine.restart(server as usize).await
            }
            Fault::CutServer(server) => {
                let hosts = cluster.engine.hosts();
                let own = *hosts.get(server as usize).context("a server without a host")?;
                let others = hosts.into_iter().filter(|host| *host != own);
                let links: Vec<_> = others.flat_map(|host| [(own, host), (host, own)]).collect();
                self.without(&links, hold).await
            }
            Fault::Slow(number) => {
                let net = cluster.net.as_deref().context("no network")?;
                let own = cluster.member(number)?.host.context("a node without a host")?;
                net.slow(own, true)?;
                tokio::time::sleep(hold).await;
                net.slow(own, false)
            }
            Fault::DrainSlot(slot) => {
                self.operate(&format!("/admin/v1/slots/{slot}/drain"), befallen).await?;
                tokio::time::sleep(hold).await;
                self.operate("/admin/v1/rebalance", befallen).await
            }
            Fault::MoveLeaders => {
                // While it elects a leader for another reason, it may not answer.
                let moved = async || Ok(cluster.engine.move_leaders("").await.ok());
                eventually("leaders that step down", moved).await.map(drop)
            }
            Fault::Join(number) => cluster.join(number).await.map(drop),
            Fault::Drain(number) => cluster.drain(number).await,
            Fault::RollingRestart => {
                for member in cluster.members() {
                    member.node.lock().await.terminate().await?;
                    cluster.restart(&member).await?;
                }
                Ok(())
            }
            Fault::Swap => self.swap(befallen).await,
        }
    }

    /// Pauses a node until the others serve everything, then resumes it with requests queued: a
    /// zombie that does not know yet what it has missed.
    async fn pause(
        &self,
        number: NodeNumber,
        hold: Duration,
        befallen: &BTreeSet<NodeNumber>,
    ) -> anyhow::Result<()> {
        let member = self.cluster.member(number)?;
        member.node.lock().await.pause()?;
        // One that is isolated or drained meanwhile can't show it.
        let mut others = self.others(number);
        others.retain(|member| !befallen.contains(&member.number));
        ensure!(!others.is_empty(), "no node is left to take over from a paused one");
        let taken_over = self.probes.all_served(&others, TAKEN_OVER_WITHIN).await;
        tokio::time::sleep(hold).await;
        let burst = self.ask_zombie(&member);
        let wake = async {
            // The requests should be in its sockets by now; it does not matter if not.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let node = member.node.lock().await;
            let pid = node.pid().context("a paused node is gone")?;
            let state = fs::read_to_string(format!("/proc/{pid}/status"))?;
            ensure!(state.contains("(stopped)"), "a paused node did not stand still: {state}");
            node.resume()
        };
        let ((), woken) = tokio::join!(burst, wake);
        woken?;
        taken_over.context("nobody took over from a paused node")?;
        self.pauses.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn ask_zombie(&self, member: &Member) {
        let at = member.addresses().api;
        let requests = (0..WAITING_AT_ZOMBIE).map(|number| async move {
            let mut caller = Caller::new(&self.recorder, 2 * ANSWER_TIMEOUT);
            let session = number % self.recorder.sessions();
            if number.is_multiple_of(2) {
                let message = self.recorder.new_message();
                caller.send(at, session, message, true).await;
            } else {
                let kinds = [ReadKind::Tail, ReadKind::Describe, ReadKind::Query];
                caller.read(at, session, kinds[number as usize / 2 % 3], false).await;
            }
        });
        futures_util::future::join_all(requests).await;
    }

    /// Those without a fault come first.
    fn members(&self, befallen: &BTreeSet<NodeNumber>) -> Vec<Arc<Member>> {
        let mut all = self.cluster.members();
        all.sort_by_key(|member| befallen.contains(&member.number));
        all
    }

    fn others(&self, number: NodeNumber) -> Vec<Arc<Member>> {
        let mut all = self.cluster.members();
        all.retain(|member| member.number != number);
        all
    }

    /// Cuts links of a node for a while.
    async fn cut(
        &self,
        number: NodeNumber,
        hold: Duration,
        peers: Ways,
        engine: Ways,
    ) -> anyhow::Result<()> {
        let own = self.cluster.member(number)?.host.context("a node without a host")?;
        let others = self.others(number);
        let peer_hosts = others.iter().filter_map(|member| member.host);
        let mut links: Vec<(HostId, HostId)> = Vec::new();
        for (hosts, ways) in [(peer_hosts.collect(), peers), (self.cluster.engine.hosts(), engine)]
        {
            for host in hosts {
                links.extend(ways.from.then_some((own, host)));
                links.extend(ways.to.then_some((host, own)));
            }
        }
        self.without(&links, hold).await
    }

    /// Runs without some links for a while.
    async fn without(&self, links: &[(HostId, HostId)], hold: Duration) -> anyhow::Result<()> {
        let net = self.cluster.net.as_deref().context("no links can be cut on loopback")?;
        links.iter().try_for_each(|&(from, to)| net.cut(from, to))?;
        tokio::time::sleep(hold).await;
        links.iter().try_for_each(|&(from, to)| net.heal(from, to))
    }

    /// An operator's command, at any node that accepts it; retried while none does, because of
    /// other faults.
    async fn operate(&self, path: &str, befallen: &BTreeSet<NodeNumber>) -> anyhow::Result<()> {
        eventually(path, async || {
            for member in self.members(befallen) {
                let client = member.admin().client;
                let answer = tokio::time::timeout(DEPLOYED_WITHIN, client.post(path, "")).await;
                if answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200)) {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Deploys the other version of each plugin, through a node that can: back and forth between
    /// two, so that only the first swaps have anything to compile.
    async fn swap(&self, befallen: &BTreeSet<NodeNumber>) -> anyhow::Result<()> {
        let number = self.swaps.fetch_add(1, Relaxed) + 1;
        let chat = if number.is_multiple_of(2) { "chat-v1" } else { "chat-v2" };
        for (service, plugin) in [("chat", chat), ("counter", "counter"), (SERVICE, SERVICE)] {
            let component = plugins::load(plugin)?;
            let component = plugins::variant(&component, &format!("swap {}", number % 2));
            let done = self.deploy(service, component, befallen).await;
            done.with_context(|| service.to_owned())?;
        }
        Ok(())
    }

    async fn deploy(
        &self,
        service: &str,
        component: Bytes,
        befallen: &BTreeSet<NodeNumber>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + SWAPPED_WITHIN;
        loop {
            let mut last = anyhow::anyhow!("no node is left");
            for member in self.members(befallen) {
                let admin = member.admin();
                let deploying = admin.deploy(service, component.clone());
                // A node that is isolated, paused or down can't; one that is stopping only partly.
                match tokio::time::timeout(DEPLOYED_WITHIN, deploying).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(e)) => last = e.context(member.name.clone()),
                    Err(_) => last = anyhow::anyhow!("{} gives no answer", member.name),
                }
            }
            ensure!(Instant::now() < until, last);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Which directions between a node and others are lost.
#[derive(Clone, Copy)]
struct Ways {
    from: bool,
    to: bool,
}

impl Ways {
    const NONE: Self = Self { from: false, to: false };
    const FROM: Self = Self { from: true, to: false };
    const TO: Self = Self { from: false, to: true };
    const BOTH: Self = Self { from: true, to: true };
}
