//! Makes a capture of a message that is in a session's history: all before it runs again, in memory.

use super::{
    check::{Cast, Left, Progress, is_handled, says_effects},
    versions::Versions,
};
use crate::{
    capture::{self, Capture, Captured, Component, Kind, OutcomeForm, Redaction, redact},
    effects::Effect,
    error::{Code, Error},
    limits,
    log::record::Entry,
    names::SessionKey,
    plugin::Isolation,
    replay_engine::{Base, Instances, Replay, Runs, Seen, Step, differences},
};
use futures_util::future::BoxFuture;
use std::{collections::VecDeque, sync::Arc};

/// A page of a history behind a message; empty: there is no more.
pub type Page<'a> = dyn Fn(u64) -> BoxFuture<'a, Result<Vec<Arc<Entry>>, Error>> + Send + Sync + 'a;

/// Makes one of message `seq`.
///
/// # Errors
/// Why that can't be done.
pub async fn captured(
    key: &SessionKey,
    seq: u64,
    page: &Page<'_>,
    versions: &Versions,
    redactions: &[Redaction],
    progress: &Progress,
) -> Result<Capture, Error> {
    let refused = |why: String| Error::new(Code::RequestInvalid, why);
    let failed = |left: Left| match left {
        Left::Because(why) => Error::new(Code::PluginUnavailable, why.to_string()),
        Left::Damage(why) => Error::internal(why),
        Left::Stopped => late(),
    };
    let unable = |why| failed(Left::from(why));
    let mut replay =
        Replay::new(key.clone(), Base::default()).map_err(|why| failed(Left::from(why)))?;
    let mut instances = Instances::new(Isolation::Shared);
    let mut cast = Cast::new(versions);
    let (mut entries, mut has_caused) = (VecDeque::<Arc<Entry>>::new(), false);
    loop {
        if entries.is_empty() {
            entries = page(replay.seq()).await?.into();
        }
        let Some(entry) = entries.pop_front() else {
            return Err(refused(format!("{key} has no message {seq}")));
        };
        if progress.is_over() {
            return Err(late());
        }
        has_caused |= says_effects(&entry);
        let is_it = entry.seq == seq;
        if !is_handled(&entry) {
            if is_it {
                return Err(refused(format!(
                    "no handler was called for message {seq}: it is an operator's, or a part of an \
                     answer that was shown"
                )));
            }
            let step = cast.step(&mut replay, &entry, &mut instances).await.map_err(failed)?;
            if let Step::Entered { is_known: false, .. } = step {
                return Err(refused(format!(
                    "the history does not have the state behind message {}, which an operator has \
                     written",
                    entry.seq
                )));
            }
            continue;
        }
        let (on, from) = cast.of(&entry, replay.deployment()).await.map_err(failed)?;
        let base = is_it.then(|| replay.base());
        let runs = Runs { on: &on, from: from.as_deref() };
        let step = replay.step(&entry, runs, &mut instances).await.map_err(unable)?;
        let (Some(base), Step::Handled(handled)) = (base, step) else { continue };
        check_size(&base)?;
        let stored = Seen::stored(&entry, has_caused);
        let is_same = differences(stored, Seen::from(&handled.outcome)).is_empty();
        let mut capture = Capture::new(Captured {
            kind: Kind::Asked,
            what: String::new(),
            key: key.clone(),
            component: Component::new(on.plugin.digest(), &on.version, on.same_state),
            migrates_from: from,
            base,
            entry: (*entry).clone(),
            outcome: match is_same {
                // It has more than the history.
                true => OutcomeForm::from(&handled.outcome),
                false => OutcomeForm::stored(&entry, has_caused),
            },
        });
        if !redactions.is_empty() {
            redact(&mut capture, redactions);
            let ran = capture::run(&capture, &on, &mut Instances::new(Isolation::Call)).await;
            let ran = ran.map_err(|why| Error::internal(why.to_string()))?;
            // What came out may have what was redacted.
            capture.remade(&ran.outcome);
        }
        return Ok(capture);
    }
}

fn late() -> Error {
    let most = limits::CAPTURE_TIME_MAX;
    Error::new(
        Code::Unavailable,
        format!("the messages before it could not all be run within {most:?}"),
    )
}

fn check_size(base: &Base) -> Result<(), Error> {
    let state = base.state.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let effects = base.effects.iter().map(|(_, effect): &(_, Effect)| effect.bytes());
    let bytes = state + effects.sum::<usize>();
    let most = limits::CAPTURE_BYTES_MAX;
    if bytes > most {
        let why = format!("the session had {bytes} bytes there; a capture has at most {most}");
        return Err(Error::new(Code::RequestInvalid, why));
    }
    Ok(())
}
