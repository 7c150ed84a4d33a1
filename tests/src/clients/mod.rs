//! Client libraries, each behind a driver: a program that does with its library what lines of JSON on its standard input say.
//! The protocol is in `clients/CONFORMANCE.md`.

pub mod proxy;

use crate::{cluster::place::Place, notice::not_tested, plugins};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::oneshot;

/// A language that there is a client library for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    TypeScript,
}

/// The folder of what is built of the client libraries: `SLOTD_TEST_CLIENTS`, else the workspace's `target/clients`.
pub fn folder() -> PathBuf {
    std::env::var_os("SLOTD_TEST_CLIENTS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/clients"),
        PathBuf::from,
    )
}

/// A file of what is built of the library for TypeScript; `None`, with a notice, where its tools can't be had.
///
/// # Errors
/// When it is not built; the message says how to.
pub fn typescript_or_skip(file: &str, test: &str) -> anyhow::Result<Option<PathBuf>> {
    if !plugins::Lang::Ts.is_tested() {
        not_tested(&format!("{test}: it needs Node.js with npm"));
        return Ok(None);
    }
    let path = folder().join("ts").join(file);
    ensure!(
        path.exists(),
        "{} is not built: run `cargo xtask test`, or set SLOTD_TEST_CLIENTS",
        path.display()
    );
    Ok(Some(path))
}

impl Lang {
    fn command(self, test: &str) -> anyhow::Result<Option<Command>> {
        match self {
            Self::TypeScript => {
                let Some(driver) = typescript_or_skip("driver.mjs", test)? else { return Ok(None) };
                let mut node = Command::new("node");
                // Node.js 20 has a WebSocket, and does not show it by itself.
                node.args(["--experimental-websocket", "--no-warnings"]).arg(driver);
                Ok(Some(node))
            }
        }
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A running driver. Dropping it kills it.
pub struct Driver {
    child: Child,
    stdin: Mutex<ChildStdin>,
    waiting: Waiting,
    commands: AtomicU64,
}

/// What a client library answered: its result, or the error's `code`, `status`, `retriable`, `rejection` and `message`.
pub type Outcome = Result<Value, Value>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// Starts one; `None`, with a notice, where the language's tools can't be had.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_or_skip(lang: Lang, test: &str) -> anyhow::Result<Option<Self>> {
        let Some(mut command) = lang.command(test)? else { return Ok(None) };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Place::lasting()?.spawn(command).context("starting a driver")?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(answer) = serde_json::from_str::<Value>(&line) else { continue };
                let asked = answer["id"].as_u64().and_then(|id| lock(&answers).remove(&id));
                // Who asked may have given up.
                let _ = asked.map(|asked| asked.send(answer));
            }
            // It has ended: whoever waits is told by the end of their channel.
            lock(&answers).clear();
        });
        let (stdin, commands) = (Mutex::new(stdin), AtomicU64::new(1));
        Ok(Some(Self { child, stdin, waiting, commands }))
    }

    /// Gives a command at once; its answer comes when the library has one.
    pub fn ask(
        &self,
        name: &str,
        mut arguments: Value,
    ) -> impl Future<Output = anyhow::Result<Outcome>> + Send + use<> {
        let id = self.commands.fetch_add(1, Relaxed);
        arguments["do"] = json!(name);
        arguments["id"] = json!(id);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        let given = lock(&self.stdin).write_all(format!("{arguments}\n").as_bytes());
        let name = name.to_owned();
        async move {
            given.with_context(|| format!("{name}: the driver has ended"))?;
            let mut answer = answered.await.with_context(|| format!("{name}: no answer"))?;
            let result = answer.as_object_mut().and_then(|answer| answer.remove("ok"));
            match result {
                Some(result) => Ok(Ok(result)),
                None if answer["error"]["code"] == "driver" => bail!("{name}: {answer}"),
                None => Ok(Err(answer["error"].take())),
            }
        }
    }

    /// A command that has to succeed.
    ///
    /// # Errors
    /// When it does not.
    pub async fn call(&self, name: &str, arguments: Value) -> anyhow::Result<Value> {
        match self.ask(name, arguments).await? {
            Ok(result) => Ok(result),
            Err(error) => bail!("{name}: {error}"),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
