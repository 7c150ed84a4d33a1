//! What operators see of an outbox.

use super::*;
use crate::{operation::EffectsPage, slot::open::read_copy};

async fn page(slots: &Slots, slot: SlotId, after: Option<Bytes>, limit: usize) -> EffectsPage {
    let which = Which::Outbox { service: key().service, after };
    slots.ask(slot, ListEffects { slot, which, limit }).await.unwrap()
}

/// Whose messages are in the outbox of a slot, and which: page by page.
async fn listed(slots: &Slots, slot: SlotId, limit: usize) -> Vec<(String, Name)> {
    let (mut all, mut after) = (Vec::new(), None::<Bytes>);
    loop {
        let page = page(slots, slot, after.clone(), limit).await;
        assert!(page.found.len() <= limit && page.reached.is_none_or_after(after.as_ref()));
        assert!(page.found.is_sorted_by_key(|it| &it.place));
        assert!(page.found.iter().all(|it| it.effect.body().is_empty() && it.body_bytes > 0));
        all.extend(page.found.into_iter().map(|it| (it.session.to_string(), it.name)));
        after = page.reached;
        if after.is_none() {
            return all;
        }
    }
}

trait Progress {
    fn is_none_or_after(&self, after: Option<&Bytes>) -> bool;
}
impl Progress for Option<Bytes> {
    fn is_none_or_after(&self, after: Option<&Bytes>) -> bool {
        self.as_ref().is_none_or(|reached| Some(reached) > after)
    }
}

async fn all(slots: &Slots, limit: usize) -> Vec<(String, Name)> {
    let mut all = Vec::new();
    for slot in 0..SLOTS {
        all.extend(listed(slots, slot, limit).await);
    }
    all
}

/// An operator who looks for a message that did not arrive would not find it, or find it twice.
#[tokio::test]
async fn an_outbox_shows_what_is_on_its_way_and_what_waits() {
    let lost = Arc::new(AtomicBool::new(false));
    let loses = lost.clone();
    let slots = Slots::losing(move || match loses.load(Ordering::Relaxed) {
        true => Lost::Request,
        false => Lost::Nothing,
    })
    .await;
    // One that traps, and waits; one that is dead is not there.
    slots.say("a", "1", b"Pb-tno").await;
    slots.say("a", "2", b"Pb-xno").await;
    settled(&slots, "a", 2).await;
    lost.store(true, Ordering::Relaxed);
    for from in ["a", "c", "d"] {
        for (id, to) in ["3", "4", "5"].into_iter().zip(["b", "c", "e"]) {
            slots.say(from, id, format!("P{to}-eon").as_bytes()).await;
        }
    }
    let whole = all(&slots, 100).await;
    let is_sending = |name: &Name| matches!(name, Name::Outgoing(_));
    assert_eq!(whole.iter().filter(|(_, name)| is_sending(name)).count(), 9, "{whole:?}");
    assert_eq!(whole.len(), 10);
    assert!(whole.iter().any(|(of, name)| of == "a" && matches!(name, Name::Waiting(_))));
    for limit in [1, 2, 3] {
        assert_eq!(all(&slots, limit).await, whole, "in pages of {limit}");
    }

    // The same of slots that are not open: what the store has.
    slots.rows(rows::OUTBOX).await;
    let mut copied = Vec::new();
    for slot in 0..SLOTS {
        let which = Which::Outbox { service: key().service, after: None };
        let (reply, answer) = oneshot::channel();
        let mail = ListEffects { slot, which, limit: 100 }.mail(reply);
        read_copy(slot, slots.context.clone(), mail).await;
        let found = answer.await.unwrap().unwrap().found;
        copied.extend(found.into_iter().map(|it| (it.session.to_string(), it.name)));
    }
    assert_eq!(copied, whole);

    // Another service has none of it, and timers are not among it.
    let which = Which::Outbox { service: ServiceName::parse("t").unwrap(), after: None };
    let other = slots.ask(0, ListEffects { slot: 0, which, limit: 100 }).await.unwrap();
    assert_eq!(other, EffectsPage::default());
    for slot in 0..SLOTS {
        let which = Which::Due { service: key().service, after: None };
        let due = slots.ask(slot, ListEffects { slot, which, limit: 100 }).await.unwrap();
        assert!(due.found.is_empty(), "no timer is set: {due:?}");
        let which = Which::Dead { service: key().service, after: None };
        let dead = slots.ask(slot, ListEffects { slot, which, limit: 100 }).await.unwrap();
        assert!(dead.found.iter().all(|it| matches!(it.name, Name::DeadOutgoing(_))), "{dead:?}");
    }
}
