//! Whether timers kept their word: each time of each is one message of its session, none early, none lost,
//! none twice.

use crate::{
    api::{Api, Entry, Fired, Message},
    node::eventually,
};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// A timer that was set, and acknowledged.
#[derive(Clone, Debug)]
pub struct Set {
    pub name: String,
    /// What the answer says: the time that it is for first, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// `None`: it fires once.
    pub period_ms: Option<u64>,
}

/// Has a session of the plugin `kitchen-sink` set a timer: once `after` so many milliseconds, or `every` so many.
///
/// # Errors
/// When it is not set.
pub async fn set(
    api: &Api,
    service: &str,
    session: &str,
    name: &str,
    when: (&str, u64),
) -> anyhow::Result<Set> {
    let reply: Value = api.send(service, session, message(name, when)).await?.json()?;
    set_by(name, when, &reply)
}

/// What has a session of the plugin `kitchen-sink` set a timer, once however often it comes.
pub fn message(name: &str, (how, ms): (&str, u64)) -> Message {
    let body = json!({"op": "echo", "value": name});
    let timer = json!({"op": "timer", "name": name, how: ms, "body": body});
    Message::json(&timer).key(format!("set-{name}"))
}

/// The timer that was set, by the reply.
///
/// # Errors
/// When the reply does not say for when.
pub fn set_by(name: &str, (how, ms): (&str, u64), reply: &Value) -> anyhow::Result<Set> {
    let due_ms = reply["due"].as_u64().with_context(|| format!("{reply}"))?;
    Ok(Set { name: name.to_owned(), due_ms, period_ms: (how == "every").then_some(ms) })
}

/// Waits until all is sent that is due by the first time of the last timer, and checks it.
///
/// # Errors
/// When something is lost, or wrong.
pub async fn all_sent(
    api: &Api,
    service: &str,
    sessions: &[(String, Vec<Set>)],
) -> anyhow::Result<()> {
    let all = sessions.iter().flat_map(|(_, timers)| timers);
    let last = all.map(|timer| timer.due_ms).max().context("no timer")?;
    eventually("all that was due is sent", async || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let mut lost = now < Duration::from_millis(last);
        for (session, timers) in sessions {
            let history = api.whole_history(service, session).await?;
            let wrong = check(&history, timers, last).into_iter();
            // What is late may still come; what is wrong stays so.
            let (late, wrong): (Vec<_>, Vec<_>) =
                wrong.partition(|it| it.contains("has no message"));
            ensure!(wrong.is_empty(), "{session}: {wrong:#?}");
            lost |= !late.is_empty();
        }
        Ok((!lost).then_some(()))
    })
    .await
}

/// What is wrong with a session's whole history, given the timers that were set in it and never replaced.
/// `until_ms`: what was due by then has been sent.
pub fn check(history: &[Entry], set: &[Set], until_ms: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut fired: BTreeMap<&str, Vec<(&Fired, &Entry)>> = BTreeMap::new();
    for entry in history {
        if let Some(timer) = &entry.timer {
            fired.entry(&timer.name).or_default().push((timer, entry));
            if entry.time_ms < timer.due_ms {
                wrong.push(format!(
                    "message {}: {timer:?} is {} ms early",
                    entry.seq,
                    timer.due_ms - entry.time_ms
                ));
            }
        }
    }
    for Set { name, due_ms, period_ms } in set {
        let messages = fired.remove(name.as_str()).unwrap_or_default();
        let mut due = *due_ms;
        for (timer, entry) in &messages {
            if timer.due_ms != due {
                wrong.push(format!(
                    "message {}: {timer:?} is not for {due}, the next time of the timer",
                    entry.seq
                ));
            }
            due = match period_ms {
                Some(period) => timer.due_ms + (1 + timer.missed) * period,
                None => u64::MAX,
            };
        }
        if due <= until_ms {
            wrong.push(format!("{name:?} has no message for {due}"));
        }
    }
    wrong.extend(fired.keys().map(|name| format!("{name:?} fires, and was not set")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, time_ms: u64, timer: Option<(&str, u64, u64)>) -> Entry {
        let timer = timer.map(|(name, due_ms, missed)| Fired {
            name: name.to_owned(),
            due_ms,
            missed,
            attempt: 1,
        });
        Entry { seq, time_ms, timer, ..Entry::default() }
    }

    fn set(name: &str, due_ms: u64, period_ms: Option<u64>) -> Set {
        Set { name: name.to_owned(), due_ms, period_ms }
    }

    /// A check that finds nothing in a bad history would say that all is well whatever happened.
    #[test]
    fn each_violation_is_found() {
        let timers = [set("once", 10, None), set("tick", 20, Some(10))];
        let once = entry(1, 11, Some(("once", 10, 0)));
        let first = entry(2, 35, Some(("tick", 20, 1)));
        let second = entry(3, 40, Some(("tick", 40, 0)));
        let client = entry(4, 41, None);
        let good = [once.clone(), first.clone(), second.clone(), client];
        assert_eq!(check(&good, &timers, 49), Vec::<String>::new());
        let early = entry(2, 19, Some(("tick", 20, 1)));
        let drifted = entry(3, 41, Some(("tick", 41, 0)));
        let unknown = entry(4, 50, Some(("other", 45, 0)));
        for (history, says) in [
            (vec![first.clone(), second.clone()], "\"once\" has no message for 10"),
            (vec![once.clone(), once.clone(), first.clone(), second.clone()], "not for"),
            (vec![once.clone(), early, second.clone()], "1 ms early"),
            (vec![once.clone(), first.clone(), drifted], "not for 40"),
            (vec![once.clone(), first.clone()], "\"tick\" has no message for 40"),
            (vec![once.clone(), second.clone()], "not for 20"),
            (vec![once, first, second, unknown], "\"other\" fires"),
        ] {
            let wrong = check(&history, &timers, 49);
            assert!(wrong.iter().any(|it| it.contains(says)), "{says}: {wrong:?}");
        }
    }
}
