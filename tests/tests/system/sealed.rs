//! A node that seals what it keeps.

use crate::common::say;
use anyhow::{Context, ensure};
use slotd_tests::{
    api::{Api, Message},
    disk::{files_with, files_with_bytes},
    http::Client,
    load::Random,
    node::{Addresses, Node, NodeOptions, eventually, run_slotd, scenario},
    plugins,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Nobody says it by chance.
const WORDS: &str = "nobody-else-is-to-read-this";

/// Without it, whoever gets a disk could read what clients have said; or nobody could, after a restart.
#[test]
fn what_is_kept_is_sealed_and_opens_with_its_key_alone() {
    scenario(async {
        let made = run_slotd(&["seal", "key"]).await?;
        ensure!(made.status.success(), "{made:?}");
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key");
        fs::write(&key, &made.stdout)?;
        let path = key.to_str().context("a path")?.to_owned();
        let env = vec![("SLOTD_SEAL_KEY_FILE".to_owned(), path.clone())];
        let mut node = Node::start_with(NodeOptions { env, ..NodeOptions::default() }).await?;
        node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        for _ in 0..20 {
            node.api().send("chat", "room", say("ann", WORDS)).await?;
        }
        // Replayed from the log, then from what a clean stop has written.
        for clean in [false, true] {
            if clean {
                ensure!(node.terminate().await?.success());
            } else {
                node.kill()?;
            }
            let found = files_with(node.data_dir(), WORDS)?;
            ensure!(found.is_empty(), "{found:?} can be read without the key");
            node.restart().await?;
            let history = node.api().whole_history("chat", "room").await?;
            ensure!(history.len() == 20, "{}", history.len());
            ensure!(
                history
                    .iter()
                    .all(|entry| entry.body.as_ref().is_some_and(|body| body["text"] == WORDS))
            );
        }
        ensure!(node.terminate().await?.success());
        let other = run_slotd(&["seal", "key"]).await?;
        fs::write(&key, &other.stdout)?;
        let refused = node.restart().await.err().context("it starts with another key")?;
        let told = format!("{refused:#}\n{}", node.log());
        ensure!(told.contains("sealed with the key") && told.contains("seal.key_file"), "{told}");
        // The new key in front of the old one.
        fs::write(&key, [other.stdout.as_str(), made.stdout.as_str()].concat())?;
        node.restart().await?;
        node.api().send("chat", "room", say("ann", WORDS)).await?;
        ensure!(node.api().whole_history("chat", "room").await?.len() == 21);
        Ok(())
    });
}

/// Keys of a node: files of single keys, and the one that it reads.
struct Keys {
    folder: tempfile::TempDir,
    made: Vec<(String, String)>,
}

impl Keys {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, made: Vec::new() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes one more. Gives its id.
    async fn make(&mut self) -> anyhow::Result<String> {
        let file = self.path(&format!("key-{}", self.made.len()));
        let out = file.to_str().context("a path")?;
        let made = run_slotd(&["--json", "seal", "key", "--out", out]).await?;
        ensure!(made.status.success(), "{made:?}");
        let made: serde_json::Value = serde_json::from_str(&made.stdout)?;
        let id = made["id"].as_str().context("no id")?.to_owned();
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        // Never in the place of another one.
        ensure!(!run_slotd(&["seal", "key", "--out", out]).await?.status.success());
        self.made.push((id.clone(), fs::read_to_string(&file)?));
        Ok(id)
    }

    /// Has the node read these, the first one in use.
    fn use_these(&self, numbers: &[usize]) -> anyhow::Result<()> {
        let texts: Vec<_> = numbers.iter().map(|&number| &*self.made[number].1).collect();
        Ok(fs::write(self.path("keys"), texts.concat())?)
    }

    fn env(&self) -> Vec<(String, String)> {
        vec![("SLOTD_SEAL_KEY_FILE".to_owned(), self.path("keys").display().to_string())]
    }
}

/// The bytes by which a key's id is found in what it has sealed.
fn id_bytes(id: &str) -> anyhow::Result<[u8; 4]> {
    Ok(u32::from_str_radix(id, 16)?.to_be_bytes())
}

fn files_of(folder: &Path, id: &str) -> anyhow::Result<Vec<PathBuf>> {
    files_with_bytes(folder, &id_bytes(id)?)
}

/// Waits until `slotd seal status` says that nothing needs a key.
async fn until_unused(node: &Node, id: &str) -> anyhow::Result<()> {
    eventually("a key that nothing needs", async || {
        let status = node.run(&["--json", "seal", "status"]).await?;
        ensure!(status.status.success(), "{status:?}");
        let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
        let keys = status["keys"].as_array().context("no keys")?;
        let key = keys.iter().find(|key| key["id"] == id).context("the key is not there")?;
        let by = key["needed_by"].as_array().context("needed by whom?")?;
        Ok((by.is_empty() && key["seals"] == false).then_some(()))
    })
    .await
}

/// A writer to a room of its own. Gives how many messages were acknowledged; each is numbered, under a key of its own.
async fn write_all_the_time(
    room: String,
    mut addresses: watch::Receiver<Option<Addresses>>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<u64> {
    let mut acknowledged = 0;
    while !stop.load(SeqCst) {
        // The node may be away.
        let known = addresses.wait_for(Option::is_some);
        let known = match tokio::time::timeout(Duration::from_secs(1), known).await {
            Ok(Ok(known)) => known.as_ref().map(|known| known.api),
            _ => None,
        };
        let Some(api) = known.map(|known| Api::new(Client::new(known))) else { continue };
        let text = format!("{WORDS} {acknowledged}");
        let line = serde_json::json!({"kind": "say", "from": "ann", "text": text});
        let message = Message::json(&line).key(format!("{room}-{acknowledged}"));
        if api.send("chat", &room, message).await.is_ok() {
            acknowledged += 1;
        }
    }
    Ok(acknowledged)
}

/// Whoever changes a key because somebody had it could never delete it; or would delete what was acknowledged with it.
#[test]
fn keys_are_changed_under_load_and_the_old_ones_deleted() {
    scenario(async {
        let mut keys = Keys::new()?;
        let first = keys.make().await?;
        keys.use_these(&[0])?;
        let options = NodeOptions { env: keys.env(), ..NodeOptions::default() };
        let mut node = Node::start_with(options).await?;
        node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        let said = format!("seals_with={first}");
        ensure!(node.log().contains(&said), "the log does not say {said}:\n{}", node.log());
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let writer =
                    write_all_the_time(format!("r{number}"), node.addresses(), stop.clone());
                tokio::spawn(writer)
            })
            .collect();
        let mut random = Random::new(7);
        let mut old = first;
        for turn in 1..3_usize {
            let new = keys.make().await?;
            keys.use_these(&[turn, turn - 1])?;
            // In the middle of it, too.
            for _ in 0..3 {
                node.kill()?;
                node.restart().await?;
                tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            }
            until_unused(&node, &old).await?;
            keys.use_these(&[turn])?;
            node.kill()?;
            node.restart().await?;
            old = new;
        }
        stop.store(true, SeqCst);
        let mut sent = Vec::new();
        for writer in writers {
            sent.push(writer.await??);
        }
        ensure!(sent.iter().all(|sent| *sent > 10), "{sent:?}");
        ensure!(node.terminate().await?.success());
        for (id, _) in &keys.made[..2] {
            let found = files_of(node.data_dir(), id)?;
            ensure!(found.is_empty(), "{found:?} are sealed with a key that is deleted");
        }
        ensure!(!files_of(node.data_dir(), &old)?.is_empty());
        node.restart().await?;
        for (number, sent) in sent.iter().enumerate() {
            let history = node.api().whole_history("chat", &format!("r{number}")).await?;
            // The last one may be there although nobody was told.
            let n = history.len() as u64;
            ensure!(n == *sent || n == sent + 1, "{n} of {sent}");
            for (at, entry) in history.iter().enumerate() {
                let text = entry.body.as_ref().context("no body")?["text"].clone();
                ensure!(text == format!("{WORDS} {at}"), "{at}: {text}");
            }
        }
        Ok(())
    });
}

/// Who begins to seal would have what was there before in clear text for ever; who ends it would need the key for ever.
#[test]
fn what_was_there_before_is_sealed_and_can_be_opened_for_good() {
    scenario(async {
        let mut keys = Keys::new()?;
        let id = keys.make().await?;
        let data_dir = Some(keys.path("data"));
        let without = || NodeOptions { data_dir: data_dir.clone(), ..NodeOptions::default() };
        let mut node = Node::start_with(without()).await?;
        node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        for _ in 0..20 {
            node.api().send("chat", "room", say("ann", WORDS)).await?;
        }
        ensure!(node.terminate().await?.success());
        ensure!(!files_with(node.data_dir(), WORDS)?.is_empty());
        keys.use_these(&[0])?;
        for (name, value) in keys.env() {
            node.add_env(&name, value);
        }
        node.restart().await?;
        until_done(&node).await?;
        ensure!(node.terminate().await?.success());
        let found = files_with(node.data_dir(), WORDS)?;
        ensure!(found.is_empty(), "{found:?} are in clear text");
        // With a key that only opens, and then without one.
        let opens = format!("open:{}", keys.made[0].1.lines().last().context("no key")?);
        fs::write(keys.path("keys"), opens)?;
        node.restart().await?;
        until_unused(&node, &id).await?;
        ensure!(node.terminate().await?.success());
        ensure!(files_of(node.data_dir(), &id)?.is_empty());
        let node = Node::start_with(without()).await?;
        ensure!(node.api().whole_history("chat", "room").await?.len() == 20);
        Ok(())
    });
}

async fn until_done(node: &Node) -> anyhow::Result<()> {
    eventually("a data directory that is kept alike", async || {
        let status = node.run(&["--json", "seal", "status"]).await?;
        let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
        Ok((status["directory"]["done"] == true).then_some(()))
    })
    .await
}
