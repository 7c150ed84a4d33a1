//! Whether messages between sessions kept their word: each that was acknowledged is one message of the session that
//! it was sent to, in the order in which its sender sent them; and each that asked for a reply has one outcome.

use crate::{
    api::{Api, Entry, Message},
    node::eventually,
};
use anyhow::ensure;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A message that a session has sent, acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub from: String,
    pub to: String,
    /// Rises with each message that the session sends.
    pub number: u64,
    pub reply: bool,
}

/// Has a session of the plugin `kitchen-sink` send a message to another one; tries until that is acknowledged.
///
/// # Errors
/// When it is not.
pub async fn send(api: &Api, service: &str, sent: &Sent) -> anyhow::Result<()> {
    let message = message(service, sent);
    eventually("a message that sends is acknowledged", async || {
        Ok(api.send(service, &sent.from, message.clone()).await.ok())
    })
    .await?;
    Ok(())
}

/// What has a session of the plugin `kitchen-sink` send a message, once however often it comes.
pub fn message(service: &str, Sent { from: _, to, number, reply }: &Sent) -> Message {
    let mut message = json!({
        "op": "send",
        "to": format!("{service}/{to}"),
        "body": {"number": number},
    });
    if *reply {
        message["reply"] = json!(name(*number));
    }
    Message::json(&message).key(format!("send-{number}"))
}

fn name(number: u64) -> String {
    format!("reply-{number}")
}

/// Waits until all has arrived, and each reply, and checks it.
///
/// # Errors
/// When something is lost, or wrong.
pub async fn all_arrived(api: &Api, service: &str, sent: &[Sent]) -> anyhow::Result<()> {
    let mut sessions: Vec<&str> = sent.iter().flat_map(|it| [&*it.from, &*it.to]).collect();
    sessions.sort_unstable();
    sessions.dedup();
    eventually("all that was sent has arrived", async || {
        let mut histories = BTreeMap::new();
        for session in &sessions {
            histories.insert(*session, api.whole_history(service, session).await?);
        }
        let wrong = check(service, &histories, sent).into_iter();
        // What is late may still come; what is wrong stays so.
        let (late, wrong): (Vec<_>, Vec<_>) = wrong.partition(|it| it.contains("has not come"));
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(late.is_empty().then_some(()))
    })
    .await
}

/// What is wrong with the whole histories of sessions, given all that they have sent.
pub fn check(service: &str, histories: &BTreeMap<&str, Vec<Entry>>, sent: &[Sent]) -> Vec<String> {
    let mut wrong = Vec::new();
    // From whom, to whom, and which, in the order of the receiver's messages.
    let mut arrived: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    let mut outcomes: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (session, history) in histories {
        for entry in history {
            let reply = entry.reply.as_ref().unwrap_or(&Value::Null);
            let from = reply["from"].as_str().and_then(|from| from.strip_prefix(service));
            let Some(from) = from.and_then(|from| from.strip_prefix('/')) else { continue };
            if let Some(name) = reply["name"].as_str() {
                *outcomes.entry(((*session).to_owned(), name.to_owned())).or_default() += 1;
            } else if let Some(number) = reply["body"]["number"].as_u64() {
                let pair = (from.to_owned(), (*session).to_owned());
                arrived.entry(pair).or_default().push(number);
            }
        }
    }
    let mut expected: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for Sent { from, to, number, reply } in sent {
        expected.entry((from.clone(), to.clone())).or_default().push(*number);
        if *reply {
            match outcomes.remove(&(from.clone(), name(*number))) {
                Some(1) => {}
                Some(times) => wrong.push(format!("{from}: {number} has {times} outcomes")),
                None => wrong.push(format!("{from}: the outcome of {number} has not come")),
            }
        }
    }
    for ((from, to), numbers) in expected {
        let got = arrived.remove(&(from.clone(), to.clone())).unwrap_or_default();
        if !got.is_sorted() {
            wrong.push(format!("{from} to {to}: out of order: {got:?}"));
        }
        for number in &numbers {
            match got.iter().filter(|it| *it == number).count() {
                0 => wrong.push(format!("{from} to {to}: {number} has not come")),
                1 => {}
                times => wrong.push(format!("{from} to {to}: {number} has come {times} times")),
            }
        }
        let unknown = got.iter().filter(|it| !numbers.contains(it));
        wrong.extend(unknown.map(|it| format!("{from} to {to}: {it} was never sent")));
    }
    wrong.extend(arrived.keys().map(|(from, to)| format!("{from} has sent nothing to {to}")));
    wrong.extend(outcomes.keys().map(|(of, name)| format!("{of} has not asked for {name}")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, reply: Value) -> Entry {
        Entry { seq, time_ms: seq, reply: Some(reply), ..Entry::default() }
    }

    fn message(from: &str, number: u64) -> Value {
        json!({"from": format!("s/{from}"), "attempt": 1, "reply": false, "body": {"number": number}})
    }

    fn outcome(of: &str, number: u64) -> Value {
        json!({"from": format!("s/{of}"), "name": name(number), "attempt": 1, "refusal": null})
    }

    fn checked(a: &[Value], b: &[Value]) -> Vec<String> {
        let sent = [("a", "b", 1, false), ("a", "b", 2, true), ("b", "a", 1, false)];
        let sent = sent.map(|(from, to, number, reply)| Sent {
            from: from.into(),
            to: to.into(),
            number,
            reply,
        });
        let history = |of: &[Value]| {
            let numbered = (1..).zip(of);
            numbered.map(|(seq, reply)| entry(seq, reply.clone())).collect::<Vec<_>>()
        };
        check("s", &BTreeMap::from([("a", history(a)), ("b", history(b))]), &sent)
    }

    /// A check that finds nothing proves nothing.
    #[test]
    fn what_is_lost_doubled_out_of_order_or_made_up_is_found() {
        let (to_a, back) = (message("b", 1), outcome("b", 2));
        let (one, two) = (message("a", 1), message("a", 2));
        let good = || ([to_a.clone(), back.clone()], [one.clone(), two.clone()]);
        let (a, b) = good();
        assert_eq!(checked(&a, &b), Vec::<String>::new());
        let finds = |a: &[Value], b: &[Value], what: &str| {
            let wrong = checked(a, b);
            assert!(wrong.iter().any(|it| it.contains(what)), "{what}: {wrong:?}");
        };
        finds(&a, &b[..1], "2 has not come");
        finds(&a, &[one.clone(), two.clone(), two.clone()], "2 has come 2 times");
        finds(&a, &[two.clone(), one.clone()], "out of order");
        finds(&a, &[one.clone(), two.clone(), message("a", 3)], "3 was never sent");
        finds(&a, &[one.clone(), two.clone(), message("b", 1)], "has sent nothing");
        finds(&a[..1], &b, "the outcome of 2 has not come");
        finds(&[to_a.clone(), back.clone(), back], &b, "2 outcomes");
        finds(&[to_a, outcome("b", 2), outcome("b", 1)], &b, "has not asked");
    }
}
