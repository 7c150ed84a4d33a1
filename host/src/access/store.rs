//! Where the named tokens are kept: in a cluster's registry, which all of its nodes watch, or in a file of a lone
//! node's data directory.

use super::{Decider, FOLDER, file};
use crate::{
    error::{Code, Error},
    files, limits,
    registry::Registry,
    task,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slotd_access::Tokens;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const FILE: &str = "tokens.json";
/// The form of the file.
const FORMAT: u32 = 1;

/// The named tokens. Cheap to clone.
#[derive(Clone)]
pub struct TokenStore(Arc<Place>);

enum Place {
    /// Nowhere: there are none. For listeners without a node.
    None,
    File {
        path: PathBuf,
        tokens: Mutex<Tokens>,
        decider: Decider,
    },
    Cluster {
        registry: Registry,
        decider: Decider,
        taking: Mutex<()>,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    format: u32,
    value: T,
}

impl TokenStore {
    pub fn none() -> Self {
        Self(Arc::new(Place::None))
    }

    /// Of a lone node. Blocks on the disk.
    ///
    /// # Errors
    /// A sentence: the file can't be read, or is not one of tokens.
    pub fn of_data_dir(data_dir: &Path, decider: Decider) -> Result<Self, String> {
        let path = file_in(data_dir);
        let tokens = read(&path)?;
        decider.set_tokens(tokens.clone());
        Ok(Self(Arc::new(Place::File { path, tokens: Mutex::new(tokens), decider })))
    }

    /// Of a cluster: from now on, what any node changes holds here.
    ///
    /// # Errors
    /// A sentence: what is stored are not tokens.
    pub fn of_cluster(registry: Registry, decider: Decider) -> Result<Self, String> {
        let this = Self(Arc::new(Place::Cluster { registry, decider, taking: Mutex::new(()) }));
        let Place::Cluster { registry, .. } = &*this.0 else { return Ok(this) };
        // Before they are taken: a change meanwhile is one that was not seen.
        let mut changes = registry.tokens();
        let _ = this.take()?;
        let follower = this.clone();
        task::spawn("tokens", async move {
            // The registry lives as long as the process.
            while changes.changed().await.is_ok() {
                if let Err(why) = follower.take() {
                    tracing::error!(
                        why,
                        "the tokens in the registry can't be read; keeping those from before"
                    );
                }
            }
        });
        Ok(this)
    }

    /// What is stored, which holds on this node from now on.
    fn take(&self) -> Result<Tokens, String> {
        match &*self.0 {
            Place::None => Ok(Tokens::default()),
            Place::File { tokens, .. } => Ok(tokens.lock().clone()),
            Place::Cluster { registry, decider, taking } => {
                // An older value is not to come after a newer one.
                let _turn = taking.lock();
                let value = registry.tokens().borrow().clone();
                let tokens = value.map_or_else(|| Ok(Tokens::default()), |value| decode(&value))?;
                decider.set_tokens(tokens.clone());
                Ok(tokens)
            }
        }
    }

    /// All tokens, as this node sees them.
    ///
    /// # Errors
    /// `internal` if what is stored are not tokens.
    pub fn all(&self) -> Result<Tokens, Error> {
        match &*self.0 {
            Place::Cluster { registry, .. } => {
                let value = registry.tokens().borrow().clone();
                value
                    .map_or_else(|| Ok(Tokens::default()), |value| decode(&value))
                    .map_err(Error::internal)
            }
            _ => self.take().map_err(Error::internal),
        }
    }

    /// Changes the tokens durably. When it returns, that holds on this node; on the others, soon. `change` may be called
    /// repeatedly, each time with what is stored then.
    ///
    /// # Errors
    /// Those of `change`; `storage-unavailable`, `outcome-unknown`.
    pub async fn change<T: Send + 'static>(
        &self,
        change: impl Fn(&mut Tokens) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let made = match &*self.0 {
            Place::None => return Err(Error::new(Code::Unavailable, "no node is running")),
            Place::File { .. } => {
                let this = self.clone();
                let done = task::blocking(move || this.change_file(&change));
                return done.await.map_err(|e| Error::internal(e.to_string()))?;
            }
            Place::Cluster { registry, .. } => {
                let made = Mutex::new(None);
                let changed = registry.change_tokens(|before| {
                    let before = before.map_or_else(|| Ok(Tokens::default()), decode);
                    let mut tokens = before.map_err(Error::internal)?;
                    *made.lock() = Some(change(&mut tokens)?);
                    serde_json::to_value(&tokens).map_err(|e| Error::internal(e.to_string()))
                });
                changed.await?;
                made.into_inner()
            }
        };
        self.take().map_err(Error::internal)?;
        made.ok_or_else(|| Error::internal("the tokens were not changed"))
    }

    fn change_file<T>(&self, change: &dyn Fn(&mut Tokens) -> Result<T, Error>) -> Result<T, Error> {
        let Place::File { path, tokens, decider } = &*self.0 else {
            return Err(Error::internal("not a file"));
        };
        // One change at a time.
        let mut now = tokens.lock();
        let mut next = now.clone();
        let made = change(&mut next)?;
        let stored = Stored { format: FORMAT, value: &next };
        let written = serde_json::to_vec_pretty(&stored).map_err(std::io::Error::other);
        // Else the next start could not read it.
        if written.as_ref().is_ok_and(|bytes| bytes.len() as u64 > limits::TOKENS_FILE_BYTES_MAX) {
            return Err(Error::new(
                Code::LimitReached,
                "the tokens would be too large to be kept: revoke some, or give this one fewer patterns",
            ));
        }
        let written = written.and_then(|bytes| file::replace(path, &bytes));
        written.map_err(|error| {
            let detail = format!("the tokens can't be written: {error}");
            Error::new(Code::StorageUnavailable, detail)
        })?;
        now.clone_from(&next);
        decider.set_tokens(next);
        Ok(made)
    }
}

fn decode(value: &Value) -> Result<Tokens, String> {
    Tokens::deserialize(value).map_err(|error| format!("the named tokens don't decode: {error}"))
}

pub fn file_in(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER).join(FILE)
}

/// The tokens of a lone node; without a file, none.
///
/// # Errors
/// A sentence.
pub fn read(path: &Path) -> Result<Tokens, String> {
    let shown = path.display();
    let bytes = match files::read(path, limits::TOKENS_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(files::ReadError::Missing) => return Ok(Tokens::default()),
        Err(error) => return Err(format!("{shown} {error}")),
    };
    let stored: Stored<Value> = serde_json::from_slice(&bytes)
        .map_err(|error| format!("{shown} does not decode: {error}"))?;
    match stored.format {
        FORMAT => decode(&stored.value).map_err(|why| format!("{shown}: {why}")),
        other => Err(format!("{shown} has format {other}; this slotd reads {FORMAT}")),
    }
}

impl std::fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenStore")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotd_access::{Access, Grant, Listener};

    fn grants() -> Vec<Grant> {
        vec![Grant { allow: vec!["send".into()], on: vec!["chat".into()], ..Grant::default() }]
    }

    /// A token that is gone after a restart would lock its backend out; a file of a later version that is read as an
    /// empty one would open the listener.
    #[tokio::test]
    async fn tokens_are_kept_and_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let access = crate::access::of_test(None, None);
        let open = |access: &Access| {
            TokenStore::of_data_dir(dir.path(), Decider::new(access.clone(), || {}))
        };
        let store = open(&access).unwrap();
        assert!(access.is_open(Listener::Api));
        let create = |tokens: &mut Tokens| {
            let made = tokens.create("backend", grants(), "root", 5, None);
            made.map_err(|e| Error::internal(e.to_string()))
        };
        let secret = store.change(create).await.unwrap();
        assert!(!access.is_open(Listener::Api));
        assert!(store.change(create).await.is_err(), "twice");
        let again = crate::access::of_test(None, None);
        let store = open(&again).unwrap();
        let found = again.identify_now(Listener::Api, secret.text().as_bytes(), 10);
        assert_eq!(found.unwrap().unwrap().to_string(), "token:backend");
        assert_eq!(store.all().unwrap().tokens.len(), 1);
        let path = dir.path().join("access/tokens.json");
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(!written.contains(secret.text()), "the token itself is nowhere");
        std::fs::write(&path, written.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(open(&again).unwrap_err().contains("format 2"));
    }

    /// These bytes are on disks.
    #[test]
    fn the_form_of_the_file_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let hash = "ab".repeat(32);
        let text = format!(
            r#"{{"format":1,"value":{{"tokens":[{{"name":"backend","hash":"{hash}","created_ms":1,
               "expires_ms":2,"grants":[{{"allow":["send"],"on":["chat/*"]}}],"by":"root","later":true}}]}}}}"#
        );
        std::fs::write(&path, text).unwrap();
        let tokens = read(&path).unwrap();
        let token = &tokens.tokens[0];
        assert_eq!((&*token.name, token.hash, token.expires_ms), ("backend", [0xab; 32], Some(2)));
        assert_eq!(token.grants[0].on, ["chat/*"]);
        assert!(token.unknown.contains_key("later"), "what a later version added is kept");
    }
}
