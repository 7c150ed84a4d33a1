//! Sessions that go from one language to another.

use crate::suite::{COUNTER, ISOLATIONS, SINK, is_tested, options};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message},
    node::{Node, scenario},
    plugins::{self, Lang},
};

/// A way over every pair of `count` places in both directions: the places in order.
fn circuit(count: usize) -> Vec<usize> {
    fn from(at: usize, count: usize, way: &mut Vec<usize>) {
        for next in at + 1..count {
            way.push(next);
            if next == at + 1 {
                from(next, count, way);
            }
            way.push(at);
        }
    }
    let mut way = vec![0];
    from(0, count, &mut way);
    way
}

/// A circuit that leaves a pair out would leave it untested.
#[test]
fn the_circuit_has_every_pair() {
    for count in 1..6 {
        let way = circuit(count);
        let mut pairs: Vec<_> = way.windows(2).map(|pair| (pair[0], pair[1])).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!((pairs.len(), way.len()), (count * (count - 1), count * (count - 1) + 1));
    }
}

fn tested() -> Vec<Lang> {
    Lang::ALL.into_iter().filter(|lang| is_tested(*lang)).collect()
}

/// Without it, what one language writes (a number of 64 bits, text that is not ASCII, the order of
/// keys) could be something else to the next: no team could change its mind.
#[test]
fn a_session_goes_on_in_every_other_language() {
    scenario(async {
        let node = Node::start_with(options(ISOLATIONS[0])).await?;
        count(&node, &tested()).await.context("counter")?;
        let mut langs = tested();
        langs.retain(|lang| lang.has_kitchen_sink());
        remember(&node, &langs).await.context("kitchen sink")
    });
}

/// Counts on from language to language, beyond what a double holds.
async fn count(node: &Node, langs: &[Lang]) -> anyhow::Result<()> {
    let (api, admin) = (node.api(), node.admin());
    let mut expected = 9_007_199_254_740_992_u64;
    let mut add = expected;
    for (step, at) in circuit(langs.len()).into_iter().enumerate() {
        let lang = langs[at];
        let deployed = admin.deploy(COUNTER, plugins::load(&lang.of(COUNTER))?).await?;
        if step > 0 {
            let asked = api.query(COUNTER, "much", &json!({})).await?;
            ensure!(asked == expected, "asked of {lang:?}: {asked} instead of {expected}");
            expected += 1;
        }
        let reply = api.send(COUNTER, "much", Message::json(&json!({"add": add}))).await?;
        ensure!(reply.json()? == expected, "{lang:?}: {} is not {expected}", reply.json()?);
        ensure!(reply.plugin == deployed.current.label, "{lang:?}: {reply:?}");
        ensure!(reply.seq == step as u64 + 1, "{lang:?}: {reply:?}");
        add = 1;
    }
    ensure!(admin.pinned(COUNTER).await?.is_empty(), "a session is pinned");
    Ok(())
}

/// Each writes, and reads what all before it have written.
async fn remember(node: &Node, langs: &[Lang]) -> anyhow::Result<()> {
    let (api, admin) = (node.api(), node.admin());
    let mut written: Vec<(String, Value)> = Vec::new();
    for (step, at) in circuit(langs.len()).into_iter().enumerate() {
        let lang = langs[at];
        admin.deploy(SINK, plugins::load(&lang.of(SINK))?).await?;
        let key = format!("{step:02}/{}/ä😀", lang.name());
        let value =
            json!({"text": "größe 😀\u{0}\u{2028}", "n": [step, -1.5, 1e300], "null": null});
        let set = json!({"op": "set", "key": key, "value": value});
        api.send(SINK, "memory", Message::json(&set)).await.with_context(|| format!("{lang:?}"))?;
        written.push((key, value));
        check(&api, lang, &written).await?;
        if step > 0 {
            let asked = json!({"op": "get", "key": "migrated"});
            let migrated = api.query(SINK, "memory", &asked).await?;
            ensure!(migrated["value"] == json!({"from": "1.0.0"}), "{lang:?}");
        }
    }
    Ok(())
}

async fn check(api: &Api, lang: Lang, written: &[(String, Value)]) -> anyhow::Result<()> {
    let scan = json!({"op": "scan", "prefix": "", "after": null, "limit": 1_000});
    let page = api.query(SINK, "memory", &scan).await?;
    let mut pairs = page["pairs"].as_array().context("no pairs")?.clone();
    pairs.retain(|pair| pair[0] != "migrated");
    let number = |value: &Value| value.as_f64();
    let same = |a: &Value, b: &Value| {
        let numbers =
            |v: &Value| v["n"].as_array().map(|n| n.iter().map(number).collect::<Vec<_>>());
        a["text"] == b["text"] && a["null"] == b["null"] && numbers(a) == numbers(b)
    };
    ensure!(pairs.len() == written.len(), "{lang:?} sees {} keys", pairs.len());
    for (pair, (key, value)) in pairs.iter().zip(written) {
        ensure!(
            pair[0] == key.as_str() && same(&pair[1], value),
            "{lang:?}: {pair} is not {value}"
        );
    }
    Ok(())
}
