//! Is every slot served? Probes the nodes as a client would, with one session per slot that is not
//! part of the check.

use crate::{
    api::{Api, Message, session_path},
    cluster::Member,
};
use anyhow::{Context, bail};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

const SERVICE: &str = "counter";
/// Per answer; a healthy node needs milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Sessions tried per slot before it counts as unreachable.
const TRIES_PER_SLOT: u64 = 64;

/// A session for every slot.
pub struct Probes {
    /// By slot.
    sessions: BTreeMap<u16, String>,
}

impl Probes {
    /// Finds one through a healthy cluster.
    ///
    /// # Errors
    /// If the cluster does not answer.
    pub async fn find(api: &Api, slots: u16) -> anyhow::Result<Self> {
        let mut found = BTreeMap::new();
        for number in 0..u64::from(slots) * TRIES_PER_SLOT {
            let name = format!("probe-{number}");
            let reply = api.send(SERVICE, &name, Message::bytes("probe")).await?;
            found.entry(reply.slot).or_insert(name);
            if found.len() == usize::from(slots) {
                return Ok(Self { sessions: found });
            }
        }
        bail!("found {} of {slots} slots", found.len())
    }

    /// Waits until every slot answers a current read through each of these nodes. Returns the time
    /// that it took.
    ///
    /// # Errors
    /// If it does not happen within `limit`; with the first missing slot's answer.
    pub async fn all_served(
        &self,
        through: &[Arc<Member>],
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        for member in through {
            let api = member.api();
            let served = self.sessions.iter().map(async |(&slot, session)| {
                while let Err(why) = ask(&api, session).await {
                    if started.elapsed() > limit {
                        let seen = what_nodes_say(through, slot).await;
                        bail!(
                            "slot {slot} ({session}) is not served through {} within {limit:?}: \
                             {why:#}{seen}",
                            member.name
                        );
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Ok(())
            });
            futures_util::future::try_join_all(served).await?;
        }
        Ok(started.elapsed())
    }
}

/// Each node's report on a slot and on the others, for diagnosis.
async fn what_nodes_say(nodes: &[Arc<Member>], slot: u16) -> String {
    let mut out = String::new();
    for member in nodes {
        let client = member.admin().client;
        for what in [format!("slots/{slot}"), "moves".to_owned(), "nodes".to_owned()] {
            let path = format!("/admin/v1/{what}");
            let answer = tokio::time::timeout(ANSWER_WITHIN, client.get(&path)).await;
            let answer = match answer {
                Ok(Ok(answer)) => answer.text(),
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => "no answer".into(),
            };
            out.push_str(&format!("\n  {} {what}: {answer}", member.name));
        }
    }
    out
}

async fn ask(api: &Api, session: &str) -> anyhow::Result<()> {
    let path = session_path(SERVICE, session) + "/query";
    let answer = tokio::time::timeout(ANSWER_WITHIN, api.client.post(&path, "")).await;
    answer.context("no answer")??.success()?;
    Ok(())
}
