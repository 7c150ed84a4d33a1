//! What comes in wrong, and what it gets: each line of the table of errors that a client can cause.

use crate::common::{SOON, expect_problem, node_with, say};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::json;
use slotd_core::limits::LINGER_BYTES_MAX;
use slotd_tests::{
    api::{Message, session_path},
    node::scenario,
    plugins,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The body limit without configuration.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// What the kernel's buffers of one connection hold, about.
const KERNEL_BYTES: usize = 10 * 1024 * 1024;

/// Method, path, headers, and the status and code that they get.
type Case<'a> = (&'a str, String, Vec<(&'a str, &'a str)>, u16, &'a str);

/// Without it, a client that errs would get a vague answer, or another code than the documented
/// one, or change something.
#[test]
fn bad_requests_get_their_codes() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let (api, admin) = (node.api().client, node.admin().client);
        let sessions = |session: &str| format!("/v1/services/chat/sessions/{session}");
        let long = "x".repeat(257);
        let long_service = "x".repeat(65);
        let messages = |session: &str| sessions(session) + "/messages";
        let cases: Vec<Case> = vec![
            ("GET", "/v1/nothing".into(), vec![], 404, "route-not-found"),
            ("PUT", messages("a"), vec![], 405, "method-not-allowed"),
            ("POST", session_path("none", "a") + "/messages", vec![], 404, "service-not-found"),
            ("GET", session_path("none", "a"), vec![], 404, "service-not-found"),
            ("GET", session_path("none", "a") + "/events", vec![], 404, "service-not-found"),
            ("GET", sessions("a"), vec![], 404, "session-not-found"),
            ("GET", messages("a"), vec![], 404, "session-not-found"),
            ("DELETE", sessions("a"), vec![], 404, "session-not-found"),
            ("POST", messages(&long), vec![], 400, "name-invalid"),
            ("POST", messages("a%0Ab"), vec![], 400, "name-invalid"),
            ("POST", messages("a%00"), vec![], 400, "name-invalid"),
            ("POST", messages("%7F"), vec![], 400, "name-invalid"),
            ("POST", messages("a%ff"), vec![], 400, "request-invalid"),
            ("POST", messages("a%zz"), vec![], 400, "request-invalid"),
            ("POST", session_path(&long_service, "a") + "/messages", vec![], 400, "name-invalid"),
            ("POST", session_path("Chat", "a") + "/messages", vec![], 400, "name-invalid"),
            ("POST", messages("a"), vec![("idempotency-key", "")], 400, "name-invalid"),
            ("POST", messages("a"), vec![("idempotency-key", &long[..129])], 400, "name-invalid"),
            ("POST", messages("a"), vec![("idempotency-key", "a\tb")], 400, "name-invalid"),
            ("POST", messages("a"), vec![("slotd-sender", &long)], 400, "name-invalid"),
            ("GET", messages("a") + "?after=-1", vec![], 400, "request-invalid"),
            ("GET", messages("a") + "?limit=0", vec![], 400, "request-invalid"),
            ("GET", messages("a") + "?limit=1001", vec![], 400, "request-invalid"),
            ("GET", messages("a") + "?after=1&tail=1", vec![], 400, "request-invalid"),
            ("GET", messages("a") + "?aftr=1", vec![], 400, "request-invalid"),
            ("GET", sessions("a") + "/events?after=x", vec![], 400, "request-invalid"),
            (
                "GET",
                sessions("a") + "/events",
                vec![("last-event-id", "x")],
                400,
                "request-invalid",
            ),
            ("GET", sessions("a") + "/socket", vec![], 400, "request-invalid"),
        ];
        for (method, path, headers, status, code) in &cases {
            let body = if *method == "POST" { "{}" } else { "" };
            let answer = api.request(method.parse::<Method>()?, path, headers, body).await?;
            expect_problem(&answer, *status, code)
                .with_context(|| format!("{method} {path} {headers:?}"))?;
        }
        let of_admin = [
            ("GET", "/admin/v1/services/none", 404, "service-not-found"),
            ("GET", "/admin/v1/services/Chat", 400, "name-invalid"),
            ("POST", "/admin/v1/services/none/rollback", 404, "service-not-found"),
            ("POST", "/admin/v1/services/chat/rollback", 409, "nothing-to-roll-back"),
            ("GET", "/admin/v1/slots/512", 404, "slot-not-found"),
            ("GET", "/admin/v1/slots/x", 404, "slot-not-found"),
            ("POST", "/admin/v1/slots/512/drain", 404, "slot-not-found"),
            ("GET", "/admin/v1/nothing", 404, "route-not-found"),
            ("DELETE", "/admin/v1/slots", 405, "method-not-allowed"),
        ];
        for (method, path, status, code) in of_admin {
            let answer = admin.request(method.parse::<Method>()?, path, &[], "").await?;
            expect_problem(&answer, status, code).with_context(|| format!("{method} {path}"))?;
        }
        // Not one of these made a session.
        let listed = api.get("/v1/services/chat/sessions").await?.success()?;
        ensure!(listed.json::<serde_json::Value>()?["sessions"] == json!([]), "{}", listed.text());
        Ok(())
    });
}

/// Without it, what the plugin can't read could be taken for the plugin's fault.
#[test]
fn a_message_that_the_plugin_cant_read_is_rejected() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        for body in
            ["", "{", "[]", r#"{"kind":"shout","text":"x"}"#, r#"{"kind":"say","text":"x"}"#]
        {
            let message = Message::bytes(body).typed("application/json");
            let answer = node.api().post("chat", "a", message).await?;
            let problem = expect_problem(&answer, 422, "rejected")?;
            ensure!(problem.more["rejection"]["code"].is_string(), "{problem:?}");
        }
        Ok(())
    });
}

/// Without it, a large upload would fill memory before it is refused.
#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        let path = session_path("counter", "a") + "/messages";
        let just = vec![b'x'; BODY_BYTES_MAX];
        api.send("counter", "a", Message::bytes(just.clone())).await?;
        let over = [&just[..], b"x"].concat();
        let answer = api.post("counter", "a", Message::bytes(over)).await?;
        expect_problem(&answer, 413, "body-too-large")?;

        // Chunks without end: the answer comes while they still would, and then the end.
        let (mut answers, mut chunks) =
            TcpStream::connect(api.client.address()).await?.into_split();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        chunks.write_all(head.as_bytes()).await?;
        let writing = tokio::spawn(async move {
            let chunk = [b"4000\r\n", &[b'x'; 16 * 1024][..], b"\r\n"].concat();
            let mut sent = 0;
            while chunks.write_all(&chunk).await.is_ok() {
                sent += chunk.len();
            }
            sent
        });
        let mut answer = Vec::new();
        // Ends with the connection, reset or not.
        while let Ok(1..) = answers.read_buf(&mut answer).await {}
        let text = String::from_utf8_lossy(&answer);
        ensure!(text.starts_with("HTTP/1.1 413 ") && text.contains("body-too-large"), "{text:?}");
        // What was sent beyond the limit is at most what it drains to let its answer be seen, and
        // what the kernel holds on both sides.
        let sent = tokio::time::timeout(SOON, writing).await.context("it reads on")??;
        ensure!(sent < BODY_BYTES_MAX + LINGER_BYTES_MAX + KERNEL_BYTES, "{sent} bytes were read");
        ensure!(api.session("counter", "a").await?.seq == 1, "something was kept");

        let large = vec![b'x'; BODY_BYTES_MAX + 1];
        let query = session_path("counter", "a") + "/query";
        expect_problem(&api.client.post(&query, large).await?, 413, "body-too-large")?;
        Ok(())
    });
}

/// Without it, a key that a client reuses by mistake would give it the reply to another message.
#[test]
fn a_key_used_again_with_another_body_is_a_conflict() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        let first = api.send("chat", "a", say("ann", "one").key("k")).await?;
        let other = api.post("chat", "a", say("ann", "two").key("k")).await?;
        expect_problem(&other, 409, "idempotency-conflict")?;
        let typed = say("ann", "one").key("k").typed("text/json");
        expect_problem(&api.post("chat", "a", typed).await?, 409, "idempotency-conflict")?;
        let again = api.send("chat", "a", say("ann", "one").key("k")).await?;
        ensure!(again.replayed && again.seq == first.seq && again.body == first.body, "{again:?}");
        // Keys belong to their session.
        let elsewhere = api.send("chat", "b", say("ann", "two").key("k")).await?;
        ensure!(!elsewhere.replayed, "{elsewhere:?}");
        Ok(())
    });
}

/// Without it, a file that is no plugin could replace one that works, or be refused without a word
/// of what it lacks.
#[test]
fn a_component_that_does_not_fit_is_refused_and_nothing_changes() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let (api, admin) = (node.api(), node.admin());
        let before = admin.service("chat").await?;
        let good = plugins::load("chat-v2")?;
        let mut flipped = good.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle..middle + 64].fill(0xff);
        // The smallest core module, and a component that exports nothing.
        let core_module = b"\0asm\x01\0\0\0".as_slice();
        let empty_component = b"\0asm\x0d\0\x01\0".as_slice();
        let cases: [(&str, Bytes, &str); 6] = [
            ("nothing", Bytes::new(), ""),
            ("text", Bytes::from_static(b"#!/bin/sh\n"), ""),
            ("truncated", good.slice(..good.len() / 3), ""),
            ("damaged", flipped.into(), ""),
            ("a core module", Bytes::from_static(core_module), "module"),
            ("without exports", Bytes::from_static(empty_component), "handle"),
        ];
        for (what, bytes, named) in cases {
            for service in ["chat", "fresh"] {
                let answer = admin.upload(service, bytes.clone()).await?;
                let problem = expect_problem(&answer, 422, "plugin-refused")
                    .with_context(|| format!("{what} as {service}"))?;
                ensure!(problem.detail.contains(named), "{what}: {}", problem.detail);
            }
        }
        let after = admin.service("chat").await?;
        ensure!(after.generation == before.generation, "{before:?} became {after:?}");
        ensure!(after.current.digest == before.current.digest, "{before:?} became {after:?}");
        let fresh = admin.client.get("/admin/v1/services/fresh").await?;
        expect_problem(&fresh, 404, "service-not-found")?;
        let reply = api.send("chat", "a", say("ann", "still here")).await?;
        ensure!(reply.plugin == before.current.label, "{reply:?}");
        Ok(())
    });
}
