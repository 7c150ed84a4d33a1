//! Calls a plugin's `migrate` for a version without a session, to learn its answer.

use super::{Account, Call, Failure, Input, Plugin, PluginError, Reply, State, StateFault};
use crate::{
    effects::{Expiry, Outgoing, Timer, http},
    limits,
    names::SessionKey,
};
use bytes::Bytes;
use std::sync::Arc;

/// What `migrate` does with the sessions of one version, as far as a session without state shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migrates {
    /// It looks at each session's state: what becomes of one is known when it is there.
    ByState,
    /// It agrees without a look at the state: as if there were no migration.
    Nothing,
    /// It refuses the version, whatever the state is.
    Refuses(String),
}

/// Why `migrate` could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("can't call its migrate: {0}")]
pub struct NoProbe(String);

/// Has nothing, and keeps nothing: a probe must not take memory.
struct Nothing;

impl State for Nothing {
    fn get(&mut self, _key: &str) -> Result<Option<Bytes>, StateFault> {
        Ok(None)
    }
    fn set(&mut self, _key: &str, _value: Bytes) -> Result<(), StateFault> {
        Ok(())
    }
    fn delete(&mut self, _key: &str) -> Result<(), StateFault> {
        Ok(())
    }
    fn scan(
        &mut self,
        _prefix: &str,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Vec<(String, Bytes)>, StateFault> {
        Ok(Vec::new())
    }
    fn schedule(&mut self, _name: &str, _timer: Timer) -> Result<(), StateFault> {
        Ok(())
    }
    fn cancel(&mut self, _name: &str) -> Result<bool, StateFault> {
        Ok(false)
    }
    fn timer(&mut self, _name: &str) -> Result<Option<Arc<Timer>>, StateFault> {
        Ok(None)
    }
    fn timers(
        &mut self,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Vec<(String, Arc<Timer>)>, StateFault> {
        Ok(Vec::new())
    }
    fn expire(&mut self, _expiry: Option<Expiry>) -> Result<(), StateFault> {
        Ok(())
    }
    fn send(&mut self, _outgoing: Outgoing) -> Result<(), StateFault> {
        Ok(())
    }
    fn request(&mut self, _id: &str, _request: http::Request) -> Result<(), StateFault> {
        Ok(())
    }
    fn cancel_request(&mut self, _id: &str) -> Result<bool, StateFault> {
        Ok(false)
    }
    fn open_requests(&mut self) -> Result<Vec<String>, StateFault> {
        Ok(Vec::new())
    }
    fn close(&mut self, _closed: http::Closed) -> Result<(), StateFault> {
        Ok(())
    }
    fn watch(&mut self, _watch: Option<http::Watch>) -> Result<(), StateFault> {
        Ok(())
    }
}

impl Plugin {
    /// Calls `migrate` over a session that has no state, in an instance of its own, within a call's
    /// limits. Nothing of it stays.
    ///
    /// # Errors
    /// No instance could be created, or the call passed its deadline without a result.
    pub async fn probe_migrate(
        &self,
        session: SessionKey,
        from: &str,
    ) -> Result<Migrates, NoProbe> {
        let made = self.instantiate(Account::default(), limits::INSTANCE_MEMORY_TIMEOUT).await;
        let mut instance = made.map_err(|why: PluginError| NoProbe(why.to_string()))?;
        let input = Input::Migrate { from: from.to_owned() };
        let call = Call { session, seq: 1, time_ms: 0, state: Box::new(Nothing), input };
        let outcome = instance.call(call).await;
        // Giving its memory back takes a while.
        crate::task::blocking(move || drop(instance));
        judge(outcome.used_state, outcome.result)
    }
}

fn judge(used_state: bool, result: Result<Reply, Failure>) -> Result<Migrates, NoProbe> {
    match result {
        _ if used_state => Ok(Migrates::ByState),
        Ok(_) => Ok(Migrates::Nothing),
        Err(Failure::Rejected(refusal)) => Ok(Migrates::Refuses(refusal.message)),
        // Whoever has none of his own has nothing that could trap.
        Err(Failure::Trapped(_) | Failure::Limit(_)) => Ok(Migrates::ByState),
        Err(
            why @ (Failure::Deadline(_)
            | Failure::Store(_)
            | Failure::Level(_)
            | Failure::Full(_)
            | Failure::Crowded(_)
            | Failure::Forbidden(_)
            | Failure::RequestForbidden(_)
            | Failure::NoMemory(_)
            | Failure::NoInstance(_)
            | Failure::Cut(_)),
        ) => Err(NoProbe(why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Rejection, plugin::testkit};
    use std::time::Duration;

    /// Taken for none, a migrate that goes back would need force; taken for one, its lack would
    /// corrupt state.
    #[test]
    fn what_a_migrate_did_says_what_it_is() {
        let refused = |message: &str| {
            let (code, message) = ("migrate-refused".to_owned(), message.to_owned());
            Err(Failure::Rejected(Rejection { code, message, retriable: false }))
        };
        let judged = |used_state, result| judge(used_state, result).ok();
        assert_eq!(judged(false, Ok(Reply::default())), Some(Migrates::Nothing));
        assert_eq!(judged(true, Ok(Reply::default())), Some(Migrates::ByState));
        assert_eq!(judged(false, refused("no way")), Some(Migrates::Refuses("no way".into())));
        // With a state it may find what it looked for.
        assert_eq!(judged(true, refused("no title")), Some(Migrates::ByState));
        assert_eq!(judged(true, Err(Failure::Trapped(String::new()))), Some(Migrates::ByState));
        assert_eq!(judged(false, Err(Failure::Trapped(String::new()))), Some(Migrates::ByState));
        assert_eq!(judged(false, Err(Failure::Deadline(Duration::ZERO))), None);
    }

    /// A migrate is classified by what the component does, not by what it was built with.
    #[tokio::test]
    async fn components_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let host = testkit::host(dir.path());
        let session = || SessionKey::parse("s", "x").unwrap();
        let own = host.add(testkit::guest().into()).await.unwrap();
        let none = host.add(testkit::guest_without_migrate().into()).await.unwrap();
        let asked = own.probe_migrate(session(), "0.2.0").await.unwrap();
        assert_eq!(asked, Migrates::ByState);
        let asked = own.probe_migrate(session(), "!").await.unwrap();
        assert!(matches!(asked, Migrates::Refuses(_)), "{asked:?}");
        let asked = none.probe_migrate(session(), "0.2.0").await.unwrap();
        assert_eq!(asked, Migrates::Nothing);
    }
}
