//! What decides who may do what on this node, and what keeps it current: the policy's file, the named tokens, the
//! static tokens, and the key of the tokens that the node mints. The decisions are [`slotd_access`]'s.

mod key;
pub mod policy;
mod store;

pub use self::{key::minting_key, policy::PolicyFile, store::TokenStore};

use crate::{captures::Redactions, quota::Quota};
use slotd_access::{Access, Hash, Listener, Policy, Tokens};
use std::{fmt, path::Path, sync::Arc};

/// The folder of the data directory for what a lone node keeps of this.
const FOLDER: &str = "access";

/// What decides, and who is told when that changes. Cheap to clone.
#[derive(Clone)]
pub struct Decider {
    access: Access,
    /// Has the limits of the policy.
    quota: Quota,
    /// Has what it says of captures.
    redactions: Redactions,
    /// Has all that is open looked at again.
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl Decider {
    pub fn new(access: Access, tell: impl Fn() + Send + Sync + 'static) -> Self {
        let tell: Arc<dyn Fn() + Send + Sync> = Arc::new(tell);
        let withdrawn = Arc::clone(&tell);
        access.on_withdrawn(move || withdrawn());
        Self { access, quota: Quota::default(), redactions: Redactions::default(), tell }
    }
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }
    #[must_use]
    pub fn with_redactions(self, redactions: Redactions) -> Self {
        Self { redactions, ..self }
    }
    pub fn access(&self) -> &Access {
        &self.access
    }
    fn set_policy(&self, policy: Policy) {
        self.quota.set(policy.limits());
        self.redactions.set(policy.redactions());
        self.access.set_policy(policy);
        (self.tell)();
    }
    fn set_tokens(&self, tokens: Tokens) {
        self.access.set_tokens(tokens);
        (self.tell)();
    }
    /// The token that may do everything on a listener.
    pub fn set_static(&self, listener: Listener, token: Option<Hash>) {
        self.access.set_static(listener, token);
        (self.tell)();
    }
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decider")
    }
}

/// Whether the tokens that a lone node keeps say who may use a listener, so that nobody else may. Blocks on the disk.
pub fn kept_tokens_close(data_dir: &Path, listener: Listener) -> bool {
    // One that can't be read ends the start, with its own reason.
    store::read(&store::file_in(data_dir)).map_or(true, |tokens| tokens.speak_of(listener))
}

/// The hash of a listener's token.
///
/// # Errors
/// A sentence if the token is empty or has characters that are invalid in a header.
pub fn static_token(secret: &str) -> Result<Hash, String> {
    if secret.is_empty() {
        return Err("a token must not be empty".into());
    }
    if !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("a token consists of printable ASCII characters without spaces".into());
    }
    Ok(slotd_access::hash(secret.as_bytes()))
}

/// As it is stored on a lone node's disk.
mod file {
    use crate::files::{self, For};
    use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

    /// Replaces a file, in a folder that is made if it is not there. Only the node's own user can read either.
    pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        files::replace(path, bytes, For::Owner)
    }
}

/// Without a policy and named tokens.
#[cfg(test)]
pub fn of_test(api_token: Option<&str>, admin_token: Option<&str>) -> Access {
    let hash = |token: &str| slotd_access::hash(token.as_bytes());
    let minting = slotd_access::MintingKey::derive(b"of a test", "test").unwrap();
    Access::new(api_token.map(hash), admin_token.map(hash), minting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A token with a line break could never be sent, and one that is empty would be shown by everybody.
    #[test]
    fn a_static_token_can_be_sent() {
        assert!(static_token("").is_err() && static_token("a b").is_err());
        assert!(static_token("ä").is_err() && static_token("a\n").is_err());
        assert_eq!(static_token("s3cret").unwrap(), slotd_access::hash(b"s3cret"));
    }

    /// Others on the machine could use what they can read.
    #[test]
    fn files_are_the_nodes_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access/tokens.json");
        file::replace(&path, b"one").unwrap();
        file::replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path) & 0o777, 0o600);
        assert_eq!(mode(path.parent().unwrap()) & 0o077, 0);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
