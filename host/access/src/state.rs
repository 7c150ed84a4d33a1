//! What decisions are made of, at one moment.

use crate::{
    identity::{Identity, Kind},
    limits,
    minted::{self, Minted, MintingKey},
    policy::{Issuer, Policy, Unmatched, covers, joined},
    refused::Refused,
    token::{CompiledGrant, Hash, NamedToken, Tokens},
    verb::{Listener, On, Verb, Verbs},
};
use std::{collections::HashMap, fmt, sync::Arc};
use subtle::ConstantTimeEq as _;

/// One epoch: nothing in it changes.
pub(crate) struct State {
    pub(crate) epoch: u64,
    pub(crate) policy: Arc<Policy>,
    pub(crate) tokens: Arc<TokenTable>,
    statics: [Option<Hash>; 2],
    /// Whether the listener is closed also while nothing is said of it.
    never_open: [bool; 2],
    /// Neither a static token, nor a rule or grant with a verb of it.
    unsaid: [bool; 2],
    /// A rule has an admin verb, so that certificates have the rights of rules only.
    rules_admin: bool,
}

/// Named tokens, by their hashes and by their names.
#[derive(Default)]
pub(crate) struct TokenTable {
    all: Vec<TokenEntry>,
    by_hash: HashMap<Hash, usize>,
    by_name: HashMap<Arc<str>, usize>,
    /// There once was a token that spoke of the listener.
    closed: [bool; 2],
}

pub(crate) struct TokenEntry {
    pub(crate) name: Arc<str>,
    hash: Hash,
    pub(crate) expires_ms: Option<u64>,
    grants: Vec<CompiledGrant>,
}

impl TokenTable {
    pub(crate) fn of(tokens: &Tokens) -> Self {
        let closed = Listener::ALL.map(|it| tokens.closed.contains(it.key()));
        let mut table = Self { closed, ..Self::default() };
        for token in tokens.tokens.iter().take(limits::TOKENS_MAX) {
            let name: Arc<str> = token.name.as_str().into();
            // Names are unique where they are made; if they were not, the later ones would have no rights.
            if table.by_name.contains_key(&name) {
                continue;
            }
            let index = table.all.len();
            table.by_hash.insert(token.hash, index);
            table.by_name.insert(Arc::clone(&name), index);
            table.all.push(TokenEntry::of(name, token));
        }
        table
    }

    pub(crate) fn by_hash(&self, hash: &Hash) -> Option<&TokenEntry> {
        self.all.get(*self.by_hash.get(hash)?)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&TokenEntry> {
        self.all.get(*self.by_name.get(name)?)
    }

    /// Those that have expired, and those that were revoked, too: the end of a token does not open a listener to
    /// everybody.
    fn speaks_of(&self, listener: Listener) -> bool {
        if self.closed[listener.index()] {
            return true;
        }
        self.all.iter().flat_map(|token| &token.grants).any(|grant| grant.verbs.has_of(listener))
    }
}

impl TokenEntry {
    fn of(name: Arc<str>, token: &NamedToken) -> Self {
        Self {
            name,
            hash: token.hash,
            expires_ms: token.expires_ms,
            grants: token.grants.iter().map(|grant| grant.compile()).collect(),
        }
    }

    pub(crate) fn fingerprint(&self) -> String {
        minted::fingerprint(&self.hash)
    }

    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= now_ms)
    }
}

/// Why something is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// The listener is open.
    Open,
    Root,
    /// The scope of a minted token.
    Scope,
    /// A grant of the named token, by its index.
    Grant(usize),
    /// A rule, by its index.
    Rule(usize),
    /// No rule has an admin verb.
    Certificate,
}

impl State {
    pub(crate) fn new(
        epoch: u64,
        policy: Arc<Policy>,
        tokens: Arc<TokenTable>,
        statics: [Option<Hash>; 2],
        never_open: [bool; 2],
    ) -> Self {
        let unsaid = Listener::ALL.map(|listener| {
            statics[listener.index()].is_none()
                && !policy.speaks_of(listener)
                && !tokens.speaks_of(listener)
        });
        let rules_admin = policy.speaks_of(Listener::Admin);
        Self { epoch, policy, tokens, statics, never_open, unsaid, rules_admin }
    }

    pub(crate) fn statics(&self) -> [Option<Hash>; 2] {
        self.statics
    }

    pub(crate) fn static_of(&self, listener: Listener) -> Option<&Hash> {
        self.statics[listener.index()].as_ref()
    }

    pub(crate) fn never_open(&self) -> [bool; 2] {
        self.never_open
    }

    /// Whether a listener would be open with another policy.
    pub(crate) fn would_open(&self, policy: &Policy, listener: Listener) -> bool {
        self.static_of(listener).is_none()
            && !policy.speaks_of(listener)
            && !self.tokens.speaks_of(listener)
            && !self.never_open[listener.index()]
    }

    pub(crate) fn is_open(&self, listener: Listener) -> bool {
        let at = listener.index();
        self.unsaid[at] && !self.never_open[at]
    }

    /// It is closed, and nothing says to whom it is not.
    fn is_for_nobody(&self, listener: Listener) -> bool {
        let at = listener.index();
        self.unsaid[at] && self.never_open[at]
    }

    pub(crate) fn is_static(&self, listener: Listener, hash: &Hash) -> bool {
        self.static_of(listener).is_some_and(|it| bool::from(it.ct_eq(hash)))
    }

    /// Whether it is allowed, and why.
    pub(crate) fn decide(
        &self,
        listener: Listener,
        identity: &Identity,
        verb: Verb,
        on: On<'_>,
    ) -> Result<Because, Refused> {
        if verb.listener() != listener {
            return Err(Refused::forbidden(format_args!("the {listener} has no {verb}")));
        }
        // Before anything else: a token for one session is for this session on an open listener, too.
        if let Kind::Minted { .. } = identity.kind {
            return match in_scope(identity, verb, on) {
                true => Ok(Because::Scope),
                false => Err(refusal(identity, verb, on)),
            };
        }
        if self.is_open(listener) {
            return Ok(Because::Open);
        }
        match &identity.kind {
            Kind::Root if self.static_of(listener).is_some() => return Ok(Because::Root),
            Kind::Certificate(_) if listener == Listener::Admin && !self.rules_admin => {
                return Ok(Because::Certificate);
            }
            Kind::Token(name) => {
                let Some(token) = self.tokens.by_name(name) else {
                    return Err(Refused::unauthorized("there is no token of this name any more"));
                };
                let mut grants = token.grants.iter();
                if let Some(index) = grants.position(|grant| grants_it(grant, identity, verb, on)) {
                    return Ok(Because::Grant(index));
                }
            }
            _ => {}
        }
        let mut rules = self.policy.rules.iter();
        match rules.position(|rule| rule.allows(identity, verb, on).is_ok()) {
            Some(index) => Ok(Because::Rule(index)),
            None if self.is_for_nobody(listener) => Err(Refused::forbidden(format_args!(
                "nobody may use the {listener}: set its token, or a rule or grant with a verb of it"
            ))),
            None => Err(refusal(identity, verb, on)),
        }
    }

    /// What was looked at, and what came of it: for `explain`.
    pub(crate) fn considered(
        &self,
        identity: &Identity,
        verb: Verb,
        on: On<'_>,
    ) -> Vec<(String, Option<usize>, Result<(), Unmatched>)> {
        let mut all = Vec::new();
        if let Kind::Token(name) = &identity.kind
            && let Some(token) = self.tokens.by_name(name)
        {
            for grant in &token.grants {
                let text =
                    format!("grant of the token: may {} on {}", grant.verbs, joined(&grant.on));
                let matches = if !grant.verbs.has(verb) {
                    Err(Unmatched::Verb)
                } else if covers(&grant.on, identity, on) {
                    Ok(())
                } else {
                    Err(Unmatched::On)
                };
                all.push((text, None, matches));
            }
        }
        if !matches!(identity.kind, Kind::Root | Kind::Minted { .. }) {
            for rule in &self.policy.rules {
                all.push((rule.to_string(), rule.line, rule.allows(identity, verb, on)));
            }
        }
        all
    }

    /// What whoever minted a token may give on its session now: his rights are decided anew, as if he minted it again.
    ///
    /// # Errors
    /// He may not mint there any more, or his own token has ended.
    pub(crate) fn given_by(
        &self,
        minted: &Minted,
        on: On<'_>,
        now_ms: u64,
        key: &MintingKey,
    ) -> Result<Verbs, Refused> {
        let ended = || Refused::unauthorized("whoever minted the token has no longer the right to");
        let minter = self.minter(minted, now_ms, key)?.ok_or_else(ended)?;
        let may = |verb: &Verb| self.decide(Listener::Api, &minter, *verb, on).is_ok();
        match may(&Verb::Mint) {
            true => Ok(Verb::ALL.into_iter().filter(may).collect()),
            false => Err(ended()),
        }
    }

    /// Whoever minted a token, if he is still there.
    fn minter(
        &self,
        minted: &Minted,
        now_ms: u64,
        key: &MintingKey,
    ) -> Result<Option<Identity>, Refused> {
        let (by, of) = (&*minted.by, minted.of.as_deref());
        Ok(match by.split_once(':') {
            Some(("token", name)) => match self.tokens.by_name(name) {
                // Created again with the same name, it is another token.
                Some(token) if of != Some(&token.fingerprint()) => None,
                Some(token) if token.is_expired(now_ms) => return Err(Refused::expired()),
                Some(token) => Some(Identity::named(Kind::Token, &token.name)),
                None => None,
            },
            Some((issuer, subject)) => {
                let mut issuers = self.policy.issuers.iter();
                // A key that was withdrawn has let him in: then so has what he has minted.
                let is_signed = |it: &&Arc<Issuer>| of.is_none_or(|key| it.may_have(key, now_ms));
                issuers.find(|it| *it.name == *issuer).filter(is_signed).map(|issuer| {
                    let kind = Kind::Issuer(Arc::clone(&issuer.name));
                    Identity::new(kind, Some(subject)).with_claims(minted.by_claims.clone())
                })
            }
            None if by == "root" => {
                let is_same = self
                    .static_of(Listener::Api)
                    .is_some_and(|hash| of == Some(&key.fingerprint(hash)));
                is_same.then(|| Identity::new(Kind::Root, None))
            }
            None if by == "anyone" => Some(Identity::new(Kind::Anyone, None)),
            None => None,
        })
    }
}

fn grants_it(grant: &CompiledGrant, identity: &Identity, verb: Verb, on: On<'_>) -> bool {
    grant.verbs.has(verb) && covers(&grant.on, identity, on)
}

fn in_scope(identity: &Identity, verb: Verb, on: On<'_>) -> bool {
    let Some(scope) = &identity.scope else { return false };
    let is_it = on == On::Session(&scope.service, &scope.session);
    // A minted token mints nothing: its own would outlive it.
    is_it && verb != Verb::Mint && scope.verbs.contains(&verb) && identity.given.has(verb)
}

fn refusal(identity: &Identity, verb: Verb, on: On<'_>) -> Refused {
    let is_lost = || {
        let mut verbs = identity.scope.iter().flat_map(|scope| &scope.verbs);
        verbs.any(|it| *it == verb) && !identity.given.has(verb)
    };
    match &identity.kind {
        Kind::Anyone => Refused::unauthorized("a token is needed for this"),
        Kind::Minted { by } if is_lost() => Refused::forbidden(format_args!(
            "{identity} may not {verb} on {on}: {by}, who minted its token, may not give it any more"
        )),
        _ => Refused::forbidden(format_args!("{identity} may not {verb} on {on}")),
    }
}

impl fmt::Debug for State {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = to.debug_struct("State");
        debug.field("epoch", &self.epoch).field("unsaid", &self.unsaid).finish_non_exhaustive()
    }
}
