//! Users of an OpenID Connect provider, whose tokens a node checks itself.

use crate::common::expect_problem;
use anyhow::ensure;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message},
    http::Client,
    issuer::Issuer,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

const SERVICE: &str = "kitchen-sink";

fn policy(issuer: &Issuer) -> String {
    format!(
        r#"
        [[issuer]]
        name = "accounts"
        issuer = "{}"
        audience = "slotd"
        claims = ["role"]

        [[rule]]
        who = "accounts:*"
        allow = ["send", "read"]
        on = "{SERVICE}/{{sub}}/*"

        [[rule]]
        who = "accounts:*"
        allow = "read"
        on = "{SERVICE}"
        when = {{ role = "staff" }}

        [service.{SERVICE}]
        sender = "subject"
        "#,
        issuer.url()
    )
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

fn claims(issuer: &Issuer, subject: &str, role: &str) -> Value {
    let now = now();
    json!({
        "iss": issuer.url(), "aud": "slotd", "sub": subject, "role": role,
        "iat": now, "nbf": now - 5, "exp": now + 600,
    })
}

fn api(node: &Node, token: &str) -> Api {
    Api::new(Client::new(node.api().client.address()).with_token(token))
}

fn asks() -> Message {
    Message::json(&json!({"op": "client"}))
}

/// Without it, users could be others than their provider says, or be kept out when it changes its keys.
#[test]
fn users_of_a_provider_are_who_it_says_and_stay_in_when_its_keys_change() {
    scenario(async {
        let issuer = Arc::new(Issuer::start().await?);
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("access.toml");
        fs::write(&file, policy(&issuer))?;
        let env = vec![("SLOTD_ACCESS_FILE".to_owned(), file.display().to_string())];
        let node = Node::start_with(NodeOptions { env, ..NodeOptions::default() }).await?;
        node.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;

        let ann = api(&node, &issuer.sign(&claims(&issuer, "ann", "guest"), false)?);
        let reply = ann.send(SERVICE, "ann/1", asks()).await?.json()?;
        let seen = json!({"kind": "accounts", "subject": "ann", "claims": {"role": "guest"}});
        ensure!(reply == seen, "{reply}");
        let history = ann.whole_history(SERVICE, "ann/1").await?;
        ensure!(history[0].sender.as_deref() == Some("ann"), "{history:?}");
        ensure!(history[0].client.as_ref() == Some(&seen), "{history:?}");
        expect_problem(&ann.post(SERVICE, "bob/1", asks()).await?, 403, "forbidden")?;
        let as_another = ann.post(SERVICE, "ann/1", asks().from("ceo")).await?;
        expect_problem(&as_another, 403, "forbidden")?;
        let staff = api(&node, &issuer.sign(&claims(&issuer, "eve", "staff"), false)?);
        ensure!(staff.whole_history(SERVICE, "ann/1").await?.len() == 1);
        expect_problem(&staff.post(SERVICE, "ann/1", asks()).await?, 403, "forbidden")?;

        let other = Issuer::start().await?;
        let with = |changes: Value| {
            let mut claims = claims(&issuer, "ann", "guest");
            for (name, value) in changes.as_object().into_iter().flatten() {
                claims[name] = value.clone();
            }
            claims
        };
        for (token, code) in [
            (issuer.sign(&with(json!({"exp": now() - 120})), false)?, "token-expired"),
            (issuer.sign(&with(json!({"aud": "another"})), false)?, "unauthorized"),
            (issuer.sign(&with(json!({"iss": other.url()})), false)?, "unauthorized"),
            (other.sign(&with(json!({})), false)?, "unauthorized"),
        ] {
            expect_problem(&api(&node, &token).post(SERVICE, "ann/1", asks()).await?, 401, code)?;
        }
        changes_its_keys(&node, issuer).await
    });
}

async fn changes_its_keys(node: &Node, issuer: Arc<Issuer>) -> anyhow::Result<()> {
    let (newest, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let answered = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn({
        let (issuer, newest, stop) = (issuer.clone(), newest.clone(), stop.clone());
        let (answered, address) = (answered.clone(), node.api().client.address());
        async move {
            let mut number = 0;
            while !stop.load(Relaxed) {
                number += 1;
                // Each time another token: nothing of it is known before.
                let mut claims = claims(&issuer, "ann", "guest");
                claims["jti"] = json!(number);
                let token = issuer.sign(&claims, newest.load(Relaxed))?;
                let ann = Api::new(Client::new(address).with_token(&token));
                ann.send(SERVICE, "ann/2", asks()).await?;
                answered.fetch_add(1, Relaxed);
            }
            anyhow::Ok(())
        }
    });
    let some = async |more: usize| {
        let until = answered.load(Relaxed) + more;
        let work =
            async || Ok((answered.load(Relaxed) >= until || load.is_finished()).then_some(()));
        eventually("requests are answered", work).await
    };
    some(50).await?;
    let asked = issuer.asked();
    issuer.publish()?;
    let token = issuer.sign(&claims(&issuer, "ann", "guest"), true)?;
    eventually("the node has the new key", async || {
        let answer = api(node, &token).post(SERVICE, "ann/3", asks()).await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await?;
    newest.store(true, Relaxed);
    issuer.withdraw();
    some(50).await?;
    stop.store(true, Relaxed);
    load.await??;
    // Not with each token that it could not check.
    let asked = issuer.asked() - asked;
    ensure!((1..=3).contains(&asked), "the keys were fetched {asked} times");
    Ok(())
}
