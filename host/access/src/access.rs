//! What listeners hold: who is asking, and whether they may.

use crate::{
    explain::{Considered, Explanation},
    identity::{Identity, Kind, Scope, is_subject},
    jwt::{self, Step},
    limits,
    minted::{self, MintingKey, Order},
    policy::{Issuer, KeySource, Policy},
    refused::{Refused, RefusedKind},
    state::{Because, State, TokenTable},
    token::{Hash, Tokens, hash},
    verb::{Listener, On, Verb},
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Who is asking, and whether they may. Clones are the same.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    state: ArcSwap<State>,
    /// That of `state`, or one less while it is being replaced.
    epoch: AtomicU64,
    /// Held by whoever replaces `state`.
    writing: Mutex<()>,
    minting: MintingKey,
    withdrawn: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Access {
    /// Without a policy and named tokens. A static token is given as its [`hash`].
    pub fn new(api_static: Option<Hash>, admin_static: Option<Hash>, minting: MintingKey) -> Self {
        let statics = [api_static, admin_static];
        let state = State::new(0, Arc::default(), Arc::default(), statics, [false; 2]);
        Self(Arc::new(Inner {
            state: ArcSwap::from_pointee(state),
            epoch: AtomicU64::new(0),
            writing: Mutex::new(()),
            minting,
            withdrawn: OnceLock::new(),
        }))
    }

    /// Calls this after an issuer's keys were withdrawn, when the epoch has gone up: whoever they have let in is to be
    /// looked at again. Every other change is one of the caller's own. Only the first one counts.
    pub fn on_withdrawn(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.withdrawn.set(Box::new(tell));
    }

    /// Replaces the policy. Keys of issuers that stay the same are kept. Raises the epoch.
    pub fn set_policy(&self, mut policy: Policy) {
        self.0.replace(|before| {
            for issuer in &mut policy.issuers {
                keep_keys(issuer, &before.policy);
                self.watch_keys(issuer);
            }
            let tokens = Arc::clone(&before.tokens);
            State::new(
                before.epoch + 1,
                Arc::new(policy),
                tokens,
                before.statics(),
                before.never_open(),
            )
        });
    }

    /// Replaces the named tokens: at most 1,000, later ones have no rights. Raises the epoch.
    pub fn set_tokens(&self, tokens: Tokens) {
        let tokens = Arc::new(TokenTable::of(&tokens));
        self.0.replace(|before| {
            let policy = Arc::clone(&before.policy);
            State::new(before.epoch + 1, policy, tokens, before.statics(), before.never_open())
        });
    }

    /// Replaces a listener's static token. Raises the epoch.
    pub fn set_static(&self, listener: Listener, token: Option<Hash>) {
        self.0.replace(|before| {
            let mut statics = before.statics();
            statics[listener.index()] = token;
            let (policy, tokens) = (Arc::clone(&before.policy), Arc::clone(&before.tokens));
            State::new(before.epoch + 1, policy, tokens, statics, before.never_open())
        });
    }

    /// Keeps a listener closed also while it has no static token, and no rule and no grant has a verb of it: others than
    /// its operator reach it. Raises the epoch.
    pub fn never_open(&self, listener: Listener) {
        self.0.replace(|before| {
            let mut never_open = before.never_open();
            never_open[listener.index()] = true;
            let (policy, tokens) = (Arc::clone(&before.policy), Arc::clone(&before.tokens));
            State::new(before.epoch + 1, policy, tokens, before.statics(), never_open)
        });
    }

    /// Goes up whenever an identity may have changed: an identity that is kept is valid for one epoch. It is one
    /// load.
    pub fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// The policy as it is now.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.state.load().policy)
    }

    /// Whether everybody may do everything on this listener: it has no static token, no rule and no grant has a
    /// verb of it, and it was not said to be [`never_open`](Self::never_open).
    pub fn is_open(&self, listener: Listener) -> bool {
        self.0.state.load().is_open(listener)
    }

    /// What tells the static token of a listener from another one, for a log: it says nothing of the token itself. It is
    /// the same on all nodes of a cluster, and after a restart.
    pub fn fingerprint_of_static(&self, listener: Listener) -> Option<String> {
        let state = self.0.state.load();
        state.static_of(listener).map(|hash| self.0.minting.fingerprint(hash))
    }

    /// Who shows nothing.
    pub fn anyone(&self) -> Identity {
        Identity::new(Kind::Anyone, None)
    }

    /// Who shows a certificate of this name, which TLS has checked.
    ///
    /// # Errors
    /// [`Unauthorized`](crate::RefusedKind::Unauthorized) if the name is empty, longer than 256 bytes, or has control
    /// characters.
    pub fn certificate(&self, name: &str) -> Result<Identity, Refused> {
        if !is_subject(name) {
            return Err(Refused::unauthorized("the certificate has no name that can be shown"));
        }
        Ok(Identity::named(Kind::Certificate, &name.into()))
    }

    /// Who shows this token, if that can be said at once. `None`: a key of its issuer has to be fetched, for which
    /// there is [`Access::identify`].
    pub fn identify_now(
        &self,
        listener: Listener,
        bearer: &[u8],
        now_ms: u64,
    ) -> Option<Result<Identity, Refused>> {
        match self.0.step(listener, bearer, now_ms, false) {
            Step::Done(identity) => Some(identity),
            Step::Fetch(_) => None,
        }
    }

    /// Who shows this token. `now_ms` are milliseconds since 1970. It waits for the keys of its
    /// issuer: 5 s at most, and twice that if another request had begun to fetch them.
    ///
    /// # Errors
    /// [`Unauthorized`](crate::RefusedKind::Unauthorized) if it is no token that is valid here,
    /// [`Expired`](crate::RefusedKind::Expired) if it was, [`Unavailable`](crate::RefusedKind::Unavailable) if that
    /// can't be said now.
    pub async fn identify(
        &self,
        listener: Listener,
        bearer: &[u8],
        now_ms: u64,
    ) -> Result<Identity, Refused> {
        // A second time if the first fetch began before the issuer had the key.
        for _ in 0..2 {
            match self.0.step(listener, bearer, now_ms, false) {
                Step::Done(identity) => return identity,
                Step::Fetch(remote) => remote.fetch(now_ms).await,
            }
        }
        match self.0.step(listener, bearer, now_ms, true) {
            Step::Done(identity) => identity,
            // The policy was replaced meanwhile.
            Step::Fetch(_) => Err(Refused::unavailable("the issuer's keys were not fetched yet")),
        }
    }

    /// Whether this identity may do this. Its end is for the caller to look at.
    ///
    /// # Errors
    /// [`Unauthorized`](crate::RefusedKind::Unauthorized) if nothing was shown, or if a token was revoked meanwhile;
    /// otherwise [`Forbidden`](crate::RefusedKind::Forbidden).
    pub fn allows(
        &self,
        listener: Listener,
        identity: &Identity,
        verb: Verb,
        on: On<'_>,
    ) -> Result<(), Refused> {
        self.0.state.load().decide(listener, identity, verb, on).map(drop)
    }

    /// As [`Access::identify`], for an operator who asks about the token of somebody: a refusal says what the token has
    /// and what would be taken.
    ///
    /// # Errors
    /// As [`Access::identify`].
    pub async fn identify_aloud(
        &self,
        listener: Listener,
        bearer: &[u8],
        now_ms: u64,
    ) -> Result<Identity, Refused> {
        let identified = self.identify(listener, bearer, now_ms).await;
        identified.map_err(|refused| match jwt::described(&self.policy(), bearer) {
            Some(has) if refused.kind == RefusedKind::Unauthorized => {
                Refused::unauthorized(format_args!("{refused}; {has}"))
            }
            _ => refused,
        })
    }

    /// Why this identity may do this, or may not.
    pub fn explain(
        &self,
        listener: Listener,
        identity: &Identity,
        verb: Verb,
        on: On<'_>,
    ) -> Explanation {
        let state = self.0.state.load();
        let decided = state.decide(listener, identity, verb, on);
        let mut rules = Vec::new();
        if matches!(decided, Err(_) | Ok(Because::Grant(_) | Because::Rule(_))) {
            for (rule, line, matches) in state.considered(identity, verb, on) {
                let why = matches.err().map(|why| why.to_string());
                rules.push(Considered { rule, line, matches: why.is_none(), why });
            }
        }
        let because = match &decided {
            Err(refused) if rules.is_empty() || rules.iter().any(|it| it.matches) => {
                refused.detail.clone()
            }
            Err(_) => "no grant or rule allows it".to_owned(),
            Ok(Because::Open) => {
                format!(
                    "the {listener} is open: it has no token, and no rule or grant has a verb of it"
                )
            }
            Ok(Because::Root) => format!("the static token may do everything on the {listener}"),
            Ok(Because::Scope) => "its token is for this".to_owned(),
            Ok(Because::Certificate) => {
                "no rule has an admin verb, so that certificates may do everything".to_owned()
            }
            Ok(Because::Grant(_) | Because::Rule(_)) => {
                let first = rules.iter().find(|it| it.matches);
                first.map(|it| it.rule.clone()).unwrap_or_default()
            }
        };
        let (identity, verb, on) = (identity.to_string(), verb.to_string(), on.to_string());
        Explanation { identity, verb, on, allowed: decided.is_ok(), because, rules }
    }

    /// A token for one session, and when it ends (milliseconds since 1970): at most `ttl` from now, and no later than
    /// whoever mints it.
    ///
    /// # Errors
    /// [`Forbidden`](crate::RefusedKind::Forbidden) if the minter may not mint here, may not do one of the scope's verbs,
    /// or is a minted token. [`Invalid`](crate::RefusedKind::Invalid) if the scope has no verbs, or has `mint`, if `ttl` is
    /// not 1 s to 1 day, or if the subject or the claims are too large.
    /// [`Expired`](crate::RefusedKind::Expired) if the minter has ended.
    pub fn mint(
        &self,
        by: &Identity,
        mut scope: Scope,
        subject: Option<&str>,
        claims: &Map<String, Value>,
        ttl: Duration,
        now_ms: u64,
    ) -> Result<(String, u64), Refused> {
        if matches!(by.kind, Kind::Minted { .. }) {
            return Err(Refused::forbidden("a token for a session can't mint others"));
        }
        scope.verbs.sort_unstable();
        scope.verbs.dedup();
        if scope.verbs.is_empty() {
            return Err(Refused::invalid("a token for a session needs verbs"));
        }
        let state = self.0.state.load();
        let on = On::Session(&scope.service, &scope.session);
        state.decide(Listener::Api, by, Verb::Mint, on)?;
        for verb in &scope.verbs {
            if *verb == Verb::Mint {
                return Err(Refused::invalid("a token for a session can't have mint"));
            }
            state.decide(Listener::Api, by, *verb, on)?;
        }
        names_himself(&state, by, subject, claims)?;
        let subject = subject.or(match by.kind {
            Kind::Issuer(_) => by.subject.as_deref(),
            _ => None,
        });
        let of = match &by.kind {
            Kind::Token(name) => state.tokens.by_name(name).map(|token| token.fingerprint()),
            Kind::Root => {
                state.static_of(Listener::Api).map(|hash| self.0.minting.fingerprint(hash))
            }
            Kind::Issuer(_) => by.key.as_deref().map(str::to_owned),
            _ => None,
        };
        self.0.minting.mint(Order { by, of, scope, subject, claims, ttl, now_ms })
    }

    /// The admin verbs that rules give to a named token of this name, whatever they are on: whoever creates a token of
    /// it gives these, too.
    pub fn ruled_of_token(&self, name: &str) -> Vec<Verb> {
        let state = self.0.state.load();
        let named = Identity::named(Kind::Token, &name.into());
        let given = |verb: &Verb| state.policy.rules.iter().any(|rule| rule.gives(&named, *verb));
        Verb::ALL.into_iter().filter(|verb| verb.is_admin()).filter(given).collect()
    }

    /// The listener that is closed, and would be open with this policy in place of the one that is.
    pub fn would_open(&self, policy: &Policy) -> Option<Listener> {
        let state = self.0.state.load();
        let opens =
            |listener: &Listener| !state.is_open(*listener) && state.would_open(policy, *listener);
        Listener::ALL.into_iter().find(opens)
    }

    /// Has the epoch go up when keys are withdrawn: identities that they said are not valid any more.
    fn watch_keys(&self, issuer: &Issuer) {
        let KeySource::Url(remote) = &issuer.keys else { return };
        let access = Arc::downgrade(&self.0);
        remote.on_gone(move || {
            let Some(inner) = access.upgrade() else { return };
            inner.replace(|before| {
                let (policy, tokens) = (Arc::clone(&before.policy), Arc::clone(&before.tokens));
                State::new(before.epoch + 1, policy, tokens, before.statics(), before.never_open())
            });
            if let Some(tell) = inner.withdrawn.get() {
                tell();
            }
        });
    }
}

/// Keys that were fetched from the same place are the same, whatever else has changed of the issuer.
fn keep_keys(issuer: &mut Arc<Issuer>, before: &Policy) {
    let KeySource::Url(remote) = &issuer.keys else { return };
    let kept = before.issuers.iter().find_map(|it| match &it.keys {
        KeySource::Url(kept) if kept.is_same(remote) => Some(Arc::clone(kept)),
        _ => None,
    });
    if let Some(kept) = kept {
        *issuer = Arc::new(issuer.with_keys(kept));
    }
}

impl Inner {
    fn replace(&self, next: impl FnOnce(&State) -> State) {
        let _writing = self.writing.lock();
        let next = next(&self.state.load());
        let epoch = next.epoch;
        // In this order: what is made of the state before has its epoch, and is looked at again.
        self.state.store(Arc::new(next));
        self.epoch.store(epoch, Ordering::Release);
    }

    fn step(&self, listener: Listener, bearer: &[u8], now_ms: u64, is_final: bool) -> Step {
        if bearer.len() > limits::BEARER_BYTES_MAX {
            let max = limits::BEARER_BYTES_MAX;
            let what = format_args!("the token has more than {max} bytes");
            return Step::Done(Err(Refused::unauthorized(what)));
        }
        let state = self.state.load();
        let hash = hash(bearer);
        if state.is_static(listener, &hash) {
            return Step::Done(Ok(Identity::new(Kind::Root, None)));
        }
        if let Some(token) = state.tokens.by_hash(&hash) {
            if token.is_expired(now_ms) {
                return Step::Done(Err(Refused::expired()));
            }
            let mut identity = Identity::named(Kind::Token, &token.name);
            identity.expires_ms = token.expires_ms;
            return Step::Done(Ok(identity));
        }
        let unknown = || {
            // Whoever shows something of somebody else where nothing is asked for, as before there was a policy.
            Step::Done(match state.is_open(listener) {
                true => Ok(Identity::new(Kind::Anyone, None)),
                false => Err(Refused::unauthorized("the token is not one that is valid here")),
            })
        };
        let Some(issuer) = jwt::issuer_of(bearer) else { return unknown() };
        if issuer == minted::ISSUER {
            return Step::Done(self.minted(&state, listener, bearer, now_ms));
        }
        match state.policy.issuers.iter().find(|it| it.issuer == issuer) {
            Some(issuer) => jwt::check(issuer, bearer, now_ms, is_final),
            None => unknown(),
        }
    }

    fn minted(
        &self,
        state: &State,
        listener: Listener,
        bearer: &[u8],
        now_ms: u64,
    ) -> Result<Identity, Refused> {
        let mut minted = self.minting.read(bearer, now_ms)?;
        if listener != Listener::Api {
            return Err(Refused::unauthorized("a token for a session is for the API only"));
        }
        let Some(scope) = &minted.identity.scope else {
            return Err(Refused::unauthorized("the token is for nothing"));
        };
        let on = On::Session(&scope.service, &scope.session);
        minted.identity.given = state.given_by(&minted, on, now_ms, &self.minting)?;
        Ok(minted.identity)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Access").field(&self.0.state.load()).finish()
    }
}

/// A backend that is trusted with a token of its own says whom a token for a session is for. Others mint for themselves.
fn names_himself(
    state: &State,
    by: &Identity,
    subject: Option<&str>,
    claims: &Map<String, Value>,
) -> Result<(), Refused> {
    let is_own = |(name, value): (&String, &Value)| {
        let own = by.typed.get(name);
        own.is_some_and(|own| crate::claim::Claim::of(value.clone()).is_some_and(|it| it == *own))
    };
    match &by.kind {
        Kind::Root | Kind::Token(_) => Ok(()),
        Kind::Anyone if state.is_open(Listener::Api) => Ok(()),
        _ if subject.is_some() && subject != by.subject.as_deref() => Err(Refused::forbidden(
            "a token for a session is for whoever mints it: only a named token may say another subject",
        )),
        _ if !claims.iter().all(is_own) => Err(Refused::forbidden(
            "a token for a session has claims of whoever mints it: only a named token may say others",
        )),
        _ => Ok(()),
    }
}
