//! What operators see of timers and dead messages, and do with them.

use super::*;
use crate::{
    effects::{
        Change, Dead, Effect, Firing, Origin, Timer, When,
        rows::{self, Name, Owner, Value as _},
    },
    message::{History, Range, ReadBy},
    operation::{ChangeEffect, EffectAction, EffectsPage, ListEffects, ReadHistory, Which},
    state::changes::Changes,
};

/// In the year 2100.
const LATER_MS: u64 = 4_102_444_800_000;

impl Fixture {
    async fn ask<O: Mailed>(&self, operation: O) -> Result<O::Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let mail = operation.mail(reply);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        timeout(TEST_TIMEOUT, answer).await.unwrap().unwrap()
    }

    async fn effects(&self, which: Which, limit: usize) -> EffectsPage {
        self.ask(ListEffects { slot: SLOT, which, limit }).await.unwrap()
    }

    async fn due(&self, after: Option<Bytes>, limit: usize) -> EffectsPage {
        self.effects(Which::Due { service: key().service, after }, limit).await
    }

    async fn dead(&self) -> EffectsPage {
        self.effects(Which::Dead { service: key().service, after: None }, 100).await
    }

    async fn change(&self, action: EffectAction) -> Result<(), Error> {
        self.ask(ChangeEffect { key: key(), action }).await
    }

    async fn read(&self) -> History {
        let (reader, consistency) = (ReadBy::Client, Consistency::Current);
        let range = Range::After { seq: 0, limit: 100 };
        self.ask(ReadHistory { key: key(), range, reader, consistency }).await.unwrap()
    }

    /// Puts effects of the session into the store, which has the session.
    async fn store_effects(&self, changes: &[Change]) {
        self.slot.try_order(Order::Flush);
        let store = self.data.state();
        let head = timeout(TEST_TIMEOUT, async {
            loop {
                match store.head(SLOT, &key()).unwrap() {
                    Some(head) => return head,
                    None => tokio::task::yield_now().await,
                }
            }
        });
        let number = head.await.unwrap().session_number;
        let mut rows = Changes::default();
        for change in changes {
            let own = rows.sessions.entry(rows::of_session(number)).or_default();
            own.state.insert(change.row.clone(), change.value.clone());
            if let (_, Some(due)) = change.due_rows(number) {
                let owner = Owner(key()).encode().unwrap();
                let index = rows.sessions.entry(rows::DUE).or_default();
                index.state.insert(due.key(), Some(owner));
            }
        }
        store.apply(SLOT, &rows, &store.slot(SLOT).unwrap()).unwrap();
    }
}

fn timer(name: &str, due_ms: u64) -> Change {
    let timer = Timer {
        when: When::Every { period_ms: 1_000 },
        due_ms,
        next_ms: due_ms,
        failures: 0,
        reason: String::new(),
        content_type: "text/plain".into(),
        body: "stick".into(),
        set_by: 1,
    };
    Effect::Timer(timer.into()).put(&Name::Timer(name.into()), None).unwrap()
}

fn dead_message(timer: &str, due_ms: u64) -> Change {
    let dead = Dead {
        firing: Firing { name: timer.into(), due_ms, missed: 0, attempt: 20 },
        content_type: "text/plain".into(),
        body: "sdead".into(),
        code: "plugin-trapped".into(),
        reason: "it trapped".into(),
        died_ms: 9,
        set_by: 1,
    };
    Effect::Dead(dead.into()).put(&Name::Dead(timer.into(), due_ms), None).unwrap()
}

fn names(page: &EffectsPage) -> Vec<Name> {
    page.found.iter().map(|found| found.name.clone()).collect()
}

/// An operator would not see what is lost, or fire again what he has cancelled, or have a message handled twice.
#[tokio::test]
async fn what_is_dead_is_tried_again_and_what_is_set_is_cancelled() {
    let mut fixture = Fixture::new().await;
    fixture.pass_all();
    fixture.send(b"sone").await.unwrap().unwrap();
    let (tick, tock) = (timer("tick", LATER_MS), timer("tock", LATER_MS + 1));
    let dead = [dead_message("a", 7), dead_message("b", 8)];
    fixture.store_effects(&[&[tock, tick][..], &dead].concat()).await;

    // What is due first comes first, in pages; then the dead.
    let timer = |name: &str| Name::Timer(name.into());
    let first = fixture.due(None, 1).await;
    assert_eq!(names(&first), [timer("tick")]);
    assert_eq!((first.found[0].body_bytes, first.found[0].effect.body().len()), (5, 0));
    let second = fixture.due(first.reached, 1).await;
    assert_eq!((names(&second), second.reached), (vec![timer("tock")], None));
    let dead = |name: &str, due_ms| Name::Dead(name.into(), due_ms);
    assert_eq!(names(&fixture.dead().await), [dead("a", 7), dead("b", 8)]);
    let all = fixture.effects(Which::Session(key()), 1).await;
    assert_eq!(names(&all), [timer("tick"), timer("tock"), dead("a", 7), dead("b", 8)]);
    assert_eq!(all.found[2].effect.body(), "sdead");

    // A timer that is cancelled is gone from memory before it is gone from the store.
    let cancel = |timer: &str| EffectAction::CancelTimer { timer: timer.into() };
    fixture.change(cancel("tick")).await.unwrap();
    assert_eq!(names(&fixture.due(None, 100).await), [timer("tock")]);
    let again = fixture.change(cancel("tick")).await.unwrap_err();
    assert_eq!(again.code, Code::TimerNotFound);

    fixture.change(EffectAction::DropDead { timer: "b".into(), due_ms: 8 }).await.unwrap();
    fixture.change(EffectAction::RetryDead { timer: "a".into(), due_ms: 7 }).await.unwrap();
    let handled = timeout(TEST_TIMEOUT, async {
        loop {
            let history = fixture.read().await;
            if history.last_seq > 1 {
                return history;
            }
        }
    });
    let (entry, _) = handled.await.unwrap().entries[1].clone();
    let firing = Firing { name: "a".into(), due_ms: 7, missed: 0, attempt: 1 };
    assert_eq!(entry.origin.as_deref(), Some(&Origin::Timer(firing)));
    assert_eq!(entry.body, "sdead");
    assert!(fixture.dead().await.found.is_empty());
    assert_eq!(fixture.read().await.last_seq, 2, "it was handled once");
}
