use std::collections::BTreeMap;

/// Who a client was shown to be: see [`Context::client`](crate::Context::client). What it says of itself is its
/// [`sender`](crate::Context::sender).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// How it was shown: `token` by a token with a name, which is the subject; `session` by a token that slotd has minted
    /// for this session; `root` by the listener's own; else the name of the issuer of its token, as the operator's
    /// policy has it.
    pub kind: String,
    /// Who it is, among those of its kind; `None`: nobody in particular.
    pub subject: Option<String>,
    /// What is said of it besides, of what the operator has named.
    pub claims: BTreeMap<String, String>,
}

impl Client {
    /// Without claims: for tests.
    pub fn new(kind: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { kind: kind.into(), subject: Some(subject.into()), claims: BTreeMap::new() }
    }
    /// With one more claim.
    #[must_use]
    pub fn with(mut self, claim: impl Into<String>, value: impl Into<String>) -> Self {
        self.claims.insert(claim.into(), value.into());
        self
    }
    /// The value of a claim, if it has it.
    pub fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name).map(String::as_str)
    }
}
