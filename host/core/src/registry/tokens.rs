//! The named tokens of a cluster. What they are is for the server above to say: here they are a JSON value, changed
//! by compare-and-swap and watched, so that a revocation holds on every node at once.

use super::{
    Inner, Registry, Shared,
    bucket::{self, BucketError, Swapped},
};
use crate::{
    error::{Code, Error},
    limits,
};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch as signal;

pub(super) const KEY: &str = "tokens";

/// `None`: none were ever stored.
pub type TokensValue = Option<Arc<Value>>;

impl Shared {
    pub(super) fn learn_tokens(&self, value: &[u8]) -> Result<(), String> {
        let tokens = bucket::decode::<Value>(value)?;
        self.tokens.send_replace(Some(tokens.into()));
        Ok(())
    }
}

impl Registry {
    /// The tokens as this node sees them, and their changes.
    pub fn tokens(&self) -> signal::Receiver<TokensValue> {
        self.inner.shared.tokens.subscribe()
    }

    /// Changes the tokens, even with concurrent changes: `change` may be called repeatedly, each time with what is
    /// stored then. When it returns, this node's watch has the new value; other nodes' have it soon.
    ///
    /// # Errors
    /// Those of `change`; `storage-unavailable`, `outcome-unknown`, `request-invalid` if they are too many for
    /// one value.
    pub async fn change_tokens(
        &self,
        change: impl Fn(Option<&Value>) -> Result<Value, Error>,
    ) -> Result<(), Error> {
        let Inner { bucket, shared, .. } = &*self.inner;
        let mut current = bucket.read(KEY).await?;
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let (revision, before) = match &current {
                Some((revision, value)) => {
                    (*revision, Some(bucket::decode::<Value>(value).map_err(BucketError::from)?))
                }
                None => (0, None),
            };
            let after = change(before.as_ref())?;
            if before.as_ref() == Some(&after) {
                return Ok(());
            }
            match bucket.swap(KEY, &after, revision).await? {
                Swapped::Won { revision, value } => {
                    shared.learn(KEY, revision, &value);
                    return Ok(());
                }
                Swapped::Lost { revision, value } => current = Some((revision, value)),
            }
        }
        Err(Error::new(
            Code::StorageUnavailable,
            "too many concurrent changes of the tokens; try again",
        ))
    }
}
