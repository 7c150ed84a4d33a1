//! Runs a capture on a component, and says in what that differs.

use super::{
    content::Content,
    form::{Capture, EventForm, Kind, OutcomeForm, ReplyForm, Unreadable},
    make::{AFTER, BEFORE},
};
use crate::{
    error::StateError,
    replay::{
        Difference, Instances, Outcome, Replay, Runs, Step, Unable, Version, What, of_bytes,
        of_text,
    },
};
use std::fmt::Write as _;

/// Why a capture can't be run. It says nothing of the component.
#[derive(Debug, thiserror::Error)]
pub enum CantRun {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Unable(#[from] Unable),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("no handler is called for its message")]
    NotHandled,
}

/// What came of a capture that was run.
#[derive(Clone, Debug)]
pub struct Ran {
    pub outcome: Outcome,
    /// The component's `migrate` has run before.
    pub migrated: bool,
}

/// Runs it, as a node would run its message: where it is another component than the one that handled the message,
/// `migrate` comes first.
///
/// # Errors
/// Why that can't be done.
pub async fn run(
    capture: &Capture,
    on: &Version,
    instances: &mut Instances,
) -> Result<Ran, CantRun> {
    let component = &capture.component;
    let is_same = on.plugin.digest() == component.digest;
    let from = match (&capture.migrates_from, is_same) {
        _ if capture.before.seq == 0 => None,
        (from, true) => from.as_deref(),
        (Some(from), false) => Some(from.as_str()),
        (None, false) => Some(component.version.as_str()),
    };
    let id = if from.is_some() { AFTER } else { BEFORE };
    let on = Version { id, ..on.clone() };
    let mut replay = Replay::new(capture.key()?, capture.base()?)?;
    let entry = capture.entry()?;
    match replay.step(&entry, Runs { on: &on, from }, instances).await? {
        Step::Handled(handled) => Ok(Ran { outcome: handled.outcome, migrated: handled.migrated }),
        Step::Part | Step::Entered { .. } => Err(CantRun::NotHandled),
    }
}

/// What a run is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// That the same comes out again: it is run on the component that handled the message.
    Reproduces,
    /// That it is as it should be: as [`Capture::expected`], else no failure where there was one, else as before.
    IsRight,
}

/// In what an outcome is not what it should be; nothing: it is.
pub fn compare(capture: &Capture, came: &OutcomeForm, to: Verdict) -> Vec<Difference> {
    let (wanted, is_exact) = match to {
        Verdict::Reproduces => (&capture.outcome, true),
        Verdict::IsRight => (capture.expects(), false),
    };
    match (wanted, came) {
        (OutcomeForm::Failure { .. }, came)
            if to == Verdict::IsRight && capture.expected.is_none() =>
        {
            match came.is_failure() {
                true => vec![of_result(wanted, came)],
                false => Vec::new(),
            }
        }
        // What a trap says has the places of the code in it.
        (OutcomeForm::Failure { kind, .. }, OutcomeForm::Failure { kind: came, .. })
            if kind == came =>
        {
            Vec::new()
        }
        (OutcomeForm::Reply(wanted), OutcomeForm::Reply(came)) => replies(wanted, came, is_exact),
        (wanted, came) if wanted == came => Vec::new(),
        (wanted, came) => vec![of_result(wanted, came)],
    }
}

fn of_result(stored: &OutcomeForm, came: &OutcomeForm) -> Difference {
    of_text(What::Result, &stored.shown(), &came.shown())
}

fn replies(wanted: &ReplyForm, came: &ReplyForm, is_exact: bool) -> Vec<Difference> {
    let mut found = Vec::new();
    if wanted.content_type != came.content_type {
        found.push(of_text(What::ContentType, &wanted.content_type, &came.content_type));
    }
    if !is_alike(&wanted.body, &came.body, is_exact) {
        found.push(of_bytes(What::Reply, &bytes(&wanted.body), &bytes(&came.body)));
    }
    let ephemeral = wanted.ephemeral.as_deref().zip(came.ephemeral.as_deref());
    let kept = (wanted.events.as_slice(), came.events.as_slice());
    for (wanted, came) in [Some(kept), ephemeral].into_iter().flatten() {
        if !are_alike(wanted, came, is_exact) {
            found.push(of_text(What::Events, &events(wanted), &events(came)));
        }
    }
    if let (Some(wanted), Some(came)) = (&wanted.effects, &came.effects)
        && wanted != came
    {
        let shown = |all| serde_json::to_string(all).unwrap_or_default();
        found.push(of_text(What::Effects, &shown(wanted), &shown(came)));
    }
    // Another version may have another shape of the state.
    if let (Some(wanted), Some(came)) = (&wanted.writes, &came.writes)
        && is_exact
    {
        let keys = wanted.keys().chain(came.keys().filter(|key| !wanted.contains_key(*key)));
        for key in keys {
            let (wanted, came) = (wanted.get(key).unwrap_or(&None), came.get(key).unwrap_or(&None));
            if wanted != came {
                let (wanted, came) = (wanted.as_ref().map(bytes), came.as_ref().map(bytes));
                found.push(Difference::of_state(key, wanted.as_deref(), came.as_deref()));
            }
        }
    }
    found
}

fn bytes(content: &Content) -> Vec<u8> {
    content.bytes().map(|bytes| bytes.to_vec()).unwrap_or_default()
}

/// JSON is compared as values, unless it has to be the same: another build may write members in another order.
fn is_alike(one: &Content, other: &Content, is_exact: bool) -> bool {
    if one == other {
        return true;
    }
    let json = |content: &Content| serde_json::from_slice::<serde_json::Value>(&bytes(content));
    !is_exact && matches!((json(one), json(other)), (Ok(one), Ok(other)) if one == other)
}

fn are_alike(one: &[EventForm], other: &[EventForm], is_exact: bool) -> bool {
    let is_same = |(one, other): (&EventForm, &EventForm)| {
        (&one.kind, &one.content_type) == (&other.kind, &other.content_type)
            && is_alike(&one.body, &other.body, is_exact)
    };
    one.len() == other.len() && one.iter().zip(other).all(is_same)
}

fn events(events: &[EventForm]) -> String {
    let mut out = format!("{} events", events.len());
    for event in events {
        let body = bytes(&event.body);
        let _ = write!(out, "; {} {}", event.kind, String::from_utf8_lossy(&body));
    }
    out
}

impl OutcomeForm {
    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::Reply(it) => {
                format!("a reply: {}", String::from_utf8_lossy(&bytes(&it.body)))
            }
            Self::Rejection { code, message, .. } => format!("rejected with {code}: {message}"),
            Self::Failure { kind, why } => format!("{kind}: {why}"),
        }
    }
}

impl Capture {
    /// Takes what came out in place of what it says came out, as of what is left after it was redacted.
    pub fn remade(&mut self, came: &Outcome) {
        let came = OutcomeForm::from(came);
        let is_kept = match (&self.outcome, &came) {
            (OutcomeForm::Failure { kind, .. }, OutcomeForm::Failure { kind: came, .. }) => {
                kind == came
            }
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        };
        self.because.gone = !is_kept;
        // What was said of it may have what was redacted.
        self.because.what = match &came {
            OutcomeForm::Failure { why, .. } if self.because.kind != Kind::Asked => why.clone(),
            _ => String::new(),
        };
        self.outcome = came;
    }
}
