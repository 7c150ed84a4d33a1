//! Messages, history, listings and deletion, as a well-behaved client uses them.

use crate::common::{deed, expect_problem, node_with, say};
use anyhow::ensure;
use futures_util::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::{History, Message, Sessions, encode, session_path},
    node::scenario,
    plugins,
};

/// Without it, an answer could lack what a client needs to go on, or numbers could have gaps.
#[test]
fn a_message_is_answered_with_its_place() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let label = node.admin().service("counter").await?.current.label;
        ensure!(label.contains('+'), "label {label}");
        let api = node.api();
        for seq in 1..=20 {
            let reply = api.send("counter", "a", Message::bytes("one")).await?;
            ensure!(reply.seq == seq && reply.json()? == seq, "{reply:?} at {seq}");
            ensure!(reply.plugin == label && !reply.replayed, "{reply:?}");
            ensure!(reply.content_type == "application/json", "{reply:?}");
        }
        // Every read that begins after the answer sees it.
        ensure!(api.query("counter", "a", &json!(null)).await? == 20);
        ensure!(api.session("counter", "a").await?.seq == 20);
        ensure!(api.history("counter", "a", 19, 10).await?.entries.len() == 1);
        Ok(())
    });
}

/// Without it, the messages of many clients to one session could be lost or applied twice.
#[test]
fn concurrent_messages_to_one_session_have_one_order() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        let sending = (0..40).map(|client| {
            let api = api.clone();
            async move {
                let mut seqs = Vec::new();
                for number in 0..10 {
                    let body = format!("{client}-{number}");
                    let reply = api.send("counter", "one", Message::bytes(body)).await?;
                    ensure!(reply.json()? == reply.seq, "{reply:?}");
                    seqs.push(reply.seq);
                }
                ensure!(seqs.is_sorted(), "client {client} was reordered: {seqs:?}");
                Ok(seqs)
            }
        });
        let mut all: Vec<u64> = try_join_all(sending).await?.concat();
        all.sort_unstable();
        ensure!(all == (1..=400).collect::<Vec<_>>(), "numbers are missing or doubled");
        Ok(())
    });
}

/// Without it, history could give back something else than what was sent and answered.
#[test]
fn history_has_what_was_sent_and_answered() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let api = node.api();
        let odd = "room/ä b?c#d%e 你好";
        let body = json!({"do": "emit", "kind": "noted", "body": {"n": [1, 2]}});
        let message = deed(&body).key("key 1 ä").from("zoë");
        let reply = api.send("hostile", odd, message).await?;
        let entries = api.whole_history("hostile", odd).await?;
        let entry = &entries[0];
        ensure!(entry.id.as_deref() == Some("key 1 ä"), "{entry:?}");
        ensure!(entry.sender.as_deref() == Some("zoë"), "{entry:?}");
        ensure!(entry.body.as_ref() == Some(&body), "{entry:?}");
        ensure!(entry.reply.as_ref() == Some(&reply.json()?), "{entry:?}");
        ensure!(entry.plugin == reply.plugin && entry.time_ms > 0, "{entry:?}");
        ensure!(entry.events.len() == 1 && entry.events[0].kind == "noted", "{entry:?}");
        ensure!(entry.events[0].body == Some(json!({"n": [1, 2]})), "{entry:?}");

        api.send("counter", "b", Message::bytes(vec![0, 255])).await?;
        api.send("counter", "b", Message::bytes("grüße").typed("text/plain")).await?;
        let entries = api.whole_history("counter", "b").await?;
        ensure!(entries[0].content_type == "application/octet-stream", "{entries:?}");
        ensure!(entries[0].body_base64.as_deref() == Some("AP8="), "{entries:?}");
        ensure!(entries[1].body == Some(json!("grüße")), "{entries:?}");
        Ok(())
    });
}

/// Without it, a client that reads page by page could miss entries or see some twice.
#[test]
fn history_is_paged_without_gap_or_overlap() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        let api = node.api();
        for number in 0..57 {
            api.send("counter", "a", Message::bytes(format!("{number}"))).await?;
        }
        for limit in [1, 7, 56, 57, 58, 1000] {
            let (mut after, mut seen) = (0, Vec::new());
            loop {
                let page = api.history("counter", "a", after, limit).await?;
                ensure!(page.entries.len() <= limit && page.last_seq == 57, "{page:?}");
                seen.extend(page.entries.iter().map(|entry| entry.seq));
                let Some(next) = page.next_after else { break };
                after = next;
            }
            ensure!(seen == (1..=57).collect::<Vec<_>>(), "limit {limit}: {seen:?}");
        }
        let path = session_path("counter", "a") + "/messages?tail=3";
        let tail: Value = api.client.get(&path).await?.success()?.json()?;
        let seqs: Vec<_> = tail["entries"].as_array().into_iter().flatten().collect();
        ensure!(seqs.len() == 3 && seqs[0]["seq"] == 55, "{tail}");
        // A page of large entries ends early, and goes on.
        for _ in 0..6 {
            api.send("counter", "large", Message::bytes(vec![b'x'; 250_000])).await?;
        }
        let first = api.history("counter", "large", 0, 1000).await?;
        ensure!(first.entries.len() < 6 && first.next_after.is_some(), "one page of 1.5 MB");
        ensure!(api.whole_history("counter", "large").await?.len() == 6);
        // One of the last has the last, from the cache and from the store.
        let path = session_path("counter", "large") + "/messages?tail=6";
        for kept in ["in the cache", "in the store"] {
            let tail: History = node.api().client.get(&path).await?.success()?.json()?;
            let seqs: Vec<_> = tail.entries.iter().map(|entry| entry.seq).collect();
            let first = 7 - seqs.len() as u64;
            ensure!((2..6).contains(&seqs.len()), "{kept}: {seqs:?}");
            ensure!(seqs == (first..=6).collect::<Vec<_>>(), "{kept}: {seqs:?}");
            ensure!(tail.next_after.is_none(), "{kept}: {:?}", tail.next_after);
            ensure!(node.terminate().await?.success());
            node.restart().await?;
        }
        Ok(())
    });
}

/// Without it, a client that never got its answer would have to choose between losing a message
/// and sending it twice.
#[test]
fn a_repeat_gets_the_first_reply() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        let one = || Message::bytes("x").key("once");
        let first = api.send("counter", "a", one()).await?;
        for _ in 0..5 {
            api.send("counter", "a", Message::bytes("y")).await?;
            let again = api.send("counter", "a", one()).await?;
            ensure!(again.replayed, "{again:?}");
            ensure!((again.seq, &again.body) == (first.seq, &first.body), "{again:?}");
        }
        // All at once, too: one is applied, the others get its reply.
        let racing = (0..20).map(|_| api.send("counter", "b", one()));
        let replies = try_join_all(racing).await?;
        ensure!(replies.iter().filter(|reply| !reply.replayed).count() == 1, "{replies:?}");
        ensure!(replies.iter().all(|reply| reply.seq == 1), "{replies:?}");
        Ok(())
    });
}

/// Without it, something of a deleted session could show up again, or be counted on.
#[test]
fn a_deleted_session_is_gone_with_all_it_had() {
    scenario(async {
        let mut node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        for number in 0..5 {
            let line = say("ann", "old").key(format!("k{number}"));
            api.send("chat", "a", line).await?;
        }
        api.send("chat", "b", say("ann", "other")).await?;
        ensure!(api.delete("chat", "a").await?.status / 100 == 2);
        expect_problem(&api.delete("chat", "a").await?, 404, "session-not-found")?;
        for restarted in [false, true] {
            if restarted {
                node.kill()?;
                node.restart().await?;
            }
            let api = node.api();
            let gone = api.client.get(&session_path("chat", "a")).await?;
            expect_problem(&gone, 404, "session-not-found")?;
            ensure!(api.session("chat", "b").await?.seq == 1);
        }
        let api = node.api();
        let line = say("bob", "new").key("k0");
        let reply = api.send("chat", "a", line).await?;
        ensure!(reply.seq == 1 && !reply.replayed, "an old key is still known: {reply:?}");
        let who = api.query("chat", "a", &json!({"query": "who"})).await?;
        ensure!(who["total"] == 1 && who["people"][0]["nick"] == "bob", "{who}");
        ensure!(api.whole_history("chat", "a").await?.len() == 1);
        Ok(())
    });
}

/// Without it, an operator could not find a session among those of 512 slots.
#[test]
fn sessions_are_listed_in_order_over_all_slots() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        let mut names: Vec<String> = (0..150).map(|n| format!("s-{n:03}")).collect();
        names.extend(["a b", "z", "s-", "ü"].map(String::from));
        try_join_all(names.iter().map(|name| api.send("counter", name, Message::bytes("x"))))
            .await?;
        names.sort();
        for limit in [1000, 7] {
            for (prefix, expected) in [("", 154), ("s-", 151), ("s-14", 10), ("nobody", 0)] {
                let expected_names = names.iter().filter(|n| n.starts_with(prefix));
                let mut listed = Vec::new();
                let mut after = String::new();
                loop {
                    let path = format!(
                        "/v1/services/counter/sessions?limit={limit}&prefix={}{after}",
                        encode(prefix)
                    );
                    let page: Sessions = api.client.get(&path).await?.success()?.json()?;
                    listed.extend(page.sessions.into_iter().map(|session| session.session));
                    let Some(next) = page.next_after else { break };
                    after = format!("&after={}", encode(&next));
                }
                ensure!(listed.len() == expected, "{prefix:?}, {limit}: {}", listed.len());
                ensure!(listed.iter().eq(expected_names), "{prefix:?}: {listed:?}");
            }
        }
        Ok(())
    });
}

/// Without it, a question could change what it asks about.
#[test]
fn a_query_changes_nothing() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        let stats = json!({"query": "stats"});
        // Nor does it make a session.
        for path in ["", "/query"] {
            let (method, body) = match path {
                "" => (Method::GET, String::new()),
                _ => (Method::POST, stats.to_string()),
            };
            let path = session_path("chat", "empty") + path;
            let answer = api.client.request(method, &path, &[], body).await?;
            expect_problem(&answer, 404, "session-not-found")?;
        }
        api.send("chat", "a", say("ann", "hello")).await?;
        let before = api.session("chat", "a").await?;
        for _ in 0..3 {
            ensure!(api.query("chat", "a", &stats).await?["lines"] == 1);
        }
        ensure!(api.session("chat", "a").await? == before);
        Ok(())
    });
}
