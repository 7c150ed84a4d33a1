//! Who may do what, from outside: tokens, the policy, sockets and streams that end with what allowed them, pages of
//! other origins.

use crate::common::{SOON, expect_problem, good, listed, node_with};
use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message, session_path},
    http::Client,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
    socket::{Received, Socket},
    sse::Sse,
};
use std::{fs, path::PathBuf};
use tempfile::TempDir;

const ROOM: &str = "/v1/services/counter/sessions/room";

/// A client of the API that shows this token.
fn with(node: &Node, token: &str) -> Client {
    Client::new(node.api().client.address()).with_token(token)
}

async fn create(node: &Node, name: &str, allow: &str, on: &str) -> anyhow::Result<String> {
    let args = ["token", "create", name, "--allow", allow, "--on", on];
    Ok(good(node, &args).await?.trim().to_owned())
}

async fn socket(node: &Node, token: &str, more: &str) -> anyhow::Result<Socket> {
    let path = format!("{ROOM}/socket?access_token={token}{more}");
    Socket::open(&node.api().client, &path).await
}

/// How the server closes a socket, whatever it sends before.
async fn closed(socket: &mut Socket) -> anyhow::Result<u16> {
    let close = async {
        loop {
            if let Received::Closed(code, _) = socket.next().await? {
                return Ok(code);
            }
        }
    };
    tokio::time::timeout(SOON, close).await.context("not closed in time")?
}

/// The problem in the last event of a stream.
async fn last(stream: &mut Sse) -> anyhow::Result<Value> {
    let last = async {
        let mut last = None;
        while let Some(event) = stream.next().await? {
            last = Some(event);
        }
        anyhow::Ok(last)
    };
    let last = tokio::time::timeout(SOON, last).await.context("no end in time")??;
    let last = last.context("no event")?;
    ensure!(last.event.as_deref() == Some("error"), "{last:?}");
    last.json()
}

/// A token that is handed out and can't be taken back, or is still good where it is in use, would be a leak for ever.
#[test]
fn a_named_token_may_what_it_is_granted_until_it_is_revoked() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        // Open to all that reach it, until the first grant says who may.
        node.api().send("counter", "room", Message::bytes("{}")).await?;
        let backend = create(&node, "backend", "send,read,subscribe,mint", "counter/r*").await?;
        ensure!(backend.starts_with("slotd_") && backend.len() == 49, "{backend}");
        let nobody = node.api().post("counter", "room", Message::bytes("{}")).await?;
        expect_problem(&nobody, 401, "unauthorized")?;
        let api = Api::new(with(&node, &backend));
        api.send("counter", "room", Message::bytes("{}")).await?;
        let other = api.post("counter", "other", Message::bytes("{}")).await?;
        expect_problem(&other, 403, "forbidden")?;
        let delete = api.client.request(Method::DELETE, ROOM, &[], "").await?;
        expect_problem(&delete, 403, "forbidden")?;
        // The admin API has nothing of it: it is as open as before.
        let tokens = listed(&node, &["token", "list"]).await?;
        let token = &tokens["tokens"][0];
        ensure!(
            token["name"] == "backend" && token["grants"][0]["on"] == json!(["counter/r*"]),
            "{tokens}"
        );
        ensure!(!tokens.to_string().contains(&backend[..20]), "the token is shown again");

        let mut open = socket(&node, &backend, "").await?;
        let mut stream = Sse::open(&api.client, &format!("{ROOM}/events"), None).await?;
        // It holds after a restart, and what was open goes with the process.
        good(&node, &["token", "revoke", "backend"]).await?;
        ensure!(closed(&mut open).await? == 4403);
        let problem = last(&mut stream).await?;
        ensure!(problem["code"] == "forbidden" && problem["status"] == 403, "{problem}");
        // The end of the last token opens the API to nobody.
        let revoked = api.post("counter", "room", Message::bytes("{}")).await?;
        expect_problem(&revoked, 401, "unauthorized")?;
        let nobody = node.api().post("counter", "room", Message::bytes("{}")).await?;
        expect_problem(&nobody, 401, "unauthorized")?;
        let kept = create(&node, "kept", "read", "counter").await?;
        node.terminate().await?;
        node.restart().await?;
        ensure!(with(&node, &kept).get(ROOM).await?.status == 200);
        expect_problem(&with(&node, &backend).get(ROOM).await?, 401, "unauthorized")?;
        let again = node.run(&["token", "create", "kept", "--allow", "read", "--on", "*"]).await?;
        ensure!(again.stderr.contains("token-exists"), "{again:?}");
        let gone = node.run(&["token", "revoke", "backend"]).await?;
        ensure!(gone.stderr.contains("token-not-found"), "{gone:?}");
        ensure!(!node.log().contains(&kept[..20]), "a token is in the log");
        Ok(())
    });
}

/// A page would lose its socket at the end of each token, or keep it without one.
#[test]
fn a_minted_token_ends_and_can_be_renewed() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let backend = create(&node, "backend", "*", "counter").await?;
        let mint = async |subject: &str, ttl: &str| {
            let args = ["token", "mint", "counter", "room", "--subject", subject, "--ttl", ttl];
            let args = [&args[..], &["--token", &backend]].concat();
            anyhow::Ok(good(&node, &args).await?.trim().to_owned())
        };
        let (of_bob, next) = (mint("bob", "10m").await?, mint("ann", "10m").await?);
        let ann = mint("ann", "10s").await?;
        let page = with(&node, &ann);
        ensure!(page.get(ROOM).await?.status == 404, "there is no session yet");
        expect_problem(&page.get("/v1/services/counter/sessions/other").await?, 403, "forbidden")?;
        expect_problem(&page.request(Method::DELETE, ROOM, &[], "").await?, 403, "forbidden")?;
        let mut ends = socket(&node, &ann, "&subscribe=false").await?;
        let mut goes_on = socket(&node, &ann, "&subscribe=false").await?;
        let mut stream = Sse::open(&page, &format!("{ROOM}/events"), None).await?;
        goes_on.send(&json!({"type": "auth", "token": of_bob})).await?;
        let refused = goes_on.frame().await?;
        ensure!(refused["type"] == "error" && refused["code"] == "forbidden", "{refused}");
        goes_on.send(&json!({"type": "auth", "token": next})).await?;
        let renewed = goes_on.frame().await?;
        ensure!(renewed["type"] == "auth" && renewed["expires_ms"].is_u64(), "{renewed}");

        ensure!(closed(&mut ends).await? == 4401);
        let problem = last(&mut stream).await?;
        ensure!(problem["code"] == "token-expired" && problem["status"] == 401, "{problem}");
        expect_problem(&page.get(ROOM).await?, 401, "token-expired")?;
        goes_on.say("1", &json!({"add": 1}), &mut Vec::new()).await?;
        // With the token that minted it, all of that ends.
        good(&node, &["token", "revoke", "backend"]).await?;
        ensure!(closed(&mut goes_on).await? == 4403);
        Ok(())
    });
}

/// A node with a policy, which a test changes.
struct Governed {
    node: Node,
    file: PathBuf,
    _dir: TempDir,
}

impl Governed {
    async fn start(policy: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("policy.toml");
        fs::write(&file, policy)?;
        let args = vec!["--access-file".into(), file.display().to_string()];
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        Ok(Self { node, file, _dir: dir })
    }
}

/// An operator who saves a file with a typing error would lock everybody out, or let everybody in.
#[test]
fn a_policy_is_read_again_and_one_that_is_wrong_is_not_taken() {
    scenario(async {
        let rule = |who: &str| {
            format!(
                "[[rule]]\nwho = [\"{who}\"]\nallow = [\"read\", \"subscribe\"]\non = [\"counter\"]\n"
            )
        };
        let governed = Governed::start(&rule("anyone")).await?;
        let Governed { node, file, .. } = &governed;
        let api = node.api();
        ensure!(api.client.get(ROOM).await?.status == 404);
        let sent = api.post("counter", "room", Message::bytes("{}")).await?;
        expect_problem(&sent, 401, "unauthorized")?;
        let mut open = Socket::open(&api.client, &format!("{ROOM}/socket")).await?;

        fs::write(file, rule("anyone").replace("read", "raed"))?;
        eventually("the fault in the log", async || {
            Ok(node.log().contains("keeping the old one").then_some(()))
        })
        .await?;
        ensure!(node.log().contains("raed"), "the log does not say what is wrong");
        ensure!(api.client.get(ROOM).await?.status == 404);
        let config = file.display().to_string();
        let check = node.run(&["config", "check", "--access-file", &config]).await?;
        ensure!(!check.status.success() && check.stderr.contains("policy.toml:3"), "{check:?}");

        fs::write(file, rule("token:reader"))?;
        ensure!(closed(&mut open).await? == 4403);
        expect_problem(&api.client.get(ROOM).await?, 401, "unauthorized")?;
        // SIGHUP does not wait for the next look.
        fs::write(file, rule("anyone"))?;
        node.signal(rustix::process::Signal::HUP)?;
        eventually("the policy", async || {
            Ok((api.client.get(ROOM).await?.status == 404).then_some(()))
        })
        .await?;
        let check = node.run(&["config", "check", "--access-file", &config]).await?;
        ensure!(check.status.success(), "{check:?}");
        Ok(())
    });
}

/// Else whoever has a token could speak in another's name.
#[test]
fn a_service_can_have_its_messages_in_the_name_of_the_subject() {
    scenario(async {
        let governed = Governed::start("[service.counter]\nsender = \"subject\"\n").await?;
        let node = &governed.node;
        let ann = Api::new(with(node, &create(node, "ann", "*", "*").await?));
        ann.send("counter", "room", Message::json(&json!({"add": 1}))).await?;
        let as_bob = Message::json(&json!({"add": 1})).from("bob");
        expect_problem(&ann.post("counter", "room", as_bob).await?, 403, "forbidden")?;
        let history = ann.history("counter", "room", 0, 10).await?;
        let senders: Vec<_> = history.entries.iter().map(|entry| entry.sender.as_deref()).collect();
        ensure!(senders == [Some("ann")], "{senders:?}");
        Ok(())
    });
}

/// Nobody could find out why a request is refused, or would see the wrong reason.
#[test]
fn an_operator_is_told_who_may_what_and_why() {
    scenario(async {
        let policy = "[[issuer]]\nname = \"accounts\"\nissuer = \"https://accounts.example\"\n\
                      audience = \"slotd\"\n[[rule]]\nwho = [\"accounts:*\"]\nallow = [\"read\"]\non = [\"counter/{sub}-*\"]\n";
        let governed = Governed::start(policy).await?;
        let node = &governed.node;
        let token = create(node, "backend", "send", "counter/a").await?;
        let explain = async |who: &str, verb: &str, on: &str| {
            listed(node, &["auth", "explain", who, verb, on]).await
        };
        let yes = explain(&token, "send", "counter/a").await?;
        ensure!(yes["allowed"] == true && yes["identity"] == "token:backend", "{yes}");
        let no = explain(&token, "send", "counter/b").await?;
        ensure!(no["allowed"] == false && no["rules"][0]["why"].is_string(), "{no}");
        let ann = explain("accounts:ann", "read", "counter/ann-1").await?;
        ensure!(ann["allowed"] == true && ann["rules"].to_string().contains("\"line\":5"), "{ann}");
        let wrong = explain("nothing-good", "send", "counter/a").await?;
        ensure!(wrong["allowed"] == false && wrong["identity"].is_null(), "{wrong}");
        let text = good(node, &["auth", "explain", &token, "read", "counter/a"]).await?;
        ensure!(text.contains("token:backend may not read on counter/a"), "{text}");
        Ok(())
    });
}

/// A right on one listener, or of one verb, must not be one on another.
#[test]
fn admin_verbs_are_rights_of_their_own() {
    scenario(async {
        let options =
            NodeOptions { admin_token: Some("root-t0k3n".into()), ..NodeOptions::default() };
        let node = Node::start_with(options).await?;
        let root = node.admin();
        root.deploy("counter", plugins::load("counter")?).await?;
        let create = async |name: &str, allow: &str, on: &str| {
            let body = json!({"name": name, "allow": [allow], "on": [on]}).to_string();
            let made: Value =
                root.client.post("/admin/v1/tokens", body).await?.success()?.json()?;
            let token = made["token"].as_str().context("no token")?;
            anyhow::Ok(Client::new(root.client.address()).with_token(token))
        };
        let reader = create("reader", "admin-read", "*").await?;
        let deployer = create("deployer", "deploy", "counter").await?;
        let operator = create("operator", "operate", "*").await?;
        let code = async |client: &Client, method: Method, path: &str| {
            let answer = client.request(method, path, &[], "").await?;
            anyhow::Ok(if answer.status < 400 { String::new() } else { answer.problem()?.code })
        };
        for path in ["/metrics", "/admin/v1/services", "/admin/v1/tokens"] {
            ensure!(code(&reader, Method::GET, path).await?.is_empty(), "{path}");
            ensure!(code(&operator, Method::GET, path).await? == "forbidden", "{path}");
        }
        let rollback = |service: &str| format!("/admin/v1/services/{service}/rollback");
        ensure!(
            code(&deployer, Method::POST, &rollback("counter")).await? == "nothing-to-roll-back"
        );
        ensure!(code(&deployer, Method::POST, &rollback("other")).await? == "forbidden");
        ensure!(code(&reader, Method::POST, &rollback("counter")).await? == "forbidden");
        ensure!(code(&reader, Method::POST, "/admin/v1/rebalance").await? == "forbidden");
        ensure!(code(&operator, Method::POST, "/admin/v1/rebalance").await?.is_empty());
        let body = json!({"name": "more", "allow": ["deploy"], "on": ["*"]}).to_string();
        let more = operator.post("/admin/v1/tokens", body).await?;
        expect_problem(&more, 403, "forbidden")?;
        // The API is open as before: nothing was said about its verbs.
        node.api().send("counter", "room", Message::bytes("{}")).await?;
        // Probes need nothing.
        let nobody = Client::new(root.client.address());
        ensure!(nobody.get("/readyz").await?.status == 200);
        expect_problem(&nobody.get("/metrics").await?, 401, "unauthorized")?;
        Ok(())
    });
}

/// A page could not be written that uses slotd from another origin, or any page could.
#[test]
fn pages_of_named_origins_get_answers_and_errors() {
    scenario(async {
        let policy = "[service.counter]\norigins = [\"https://app.example\"]\n";
        let governed = Governed::start(policy).await?;
        let node = &governed.node;
        let client = node.api().client;
        let path = format!("{}/messages", session_path("counter", "room"));
        let app = ("origin", "https://app.example");
        let ask = ("access-control-request-method", "POST");
        let allowed = |answer: &slotd_tests::http::Answer| {
            answer.header("access-control-allow-origin") == Some("https://app.example")
        };
        let preflight = client.request(Method::OPTIONS, &path, &[app, ask], "").await?;
        ensure!(preflight.status == 204 && allowed(&preflight), "{preflight:?}");
        let sent = client.request(Method::POST, &path, &[app], "{}").await?;
        ensure!(sent.status == 200 && allowed(&sent), "{sent:?}");
        ensure!(sent.header("vary") == Some("origin"), "{sent:?}");
        let evil = ("origin", "https://evil.example");
        let refused = client.request(Method::POST, &path, &[evil], "{}").await?;
        expect_problem(&refused, 403, "origin-refused")?;
        ensure!(refused.header("access-control-allow-origin").is_none(), "{refused:?}");
        // Of a service that names none, as before.
        let other = format!("{}/messages", session_path("other", "room"));
        let refused = client.request(Method::OPTIONS, &other, &[app, ask], "").await?;
        expect_problem(&refused, 403, "origin-refused")?;

        let token = create(node, "reader", "read", "counter").await?;
        let preflight = client.request(Method::OPTIONS, &path, &[app, ask], "").await?;
        ensure!(preflight.status == 204 && allowed(&preflight), "{preflight:?}");
        let nobody = client.request(Method::POST, &path, &[app], "{}").await?;
        expect_problem(&nobody, 401, "unauthorized")?;
        ensure!(allowed(&nobody), "a page can't read why: {nobody:?}");
        let reader = with(node, &token).request(Method::GET, ROOM, &[app], "").await?;
        ensure!(reader.status == 200 && allowed(&reader), "{reader:?}");
        Ok(())
    });
}
