//! The agent, with a model, tools and people that are the test's.

use super::*;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const URL: &str = "https://api.example.com/v1/chat/completions";

fn agent(more: Value) -> Session {
    let tools = json!([
        { "name": "weather", "description": "Tells the weather.", "to": "weather/{session}" },
        { "name": "count" },
    ]);
    let mut all = json!({ "url": URL, "model": "m-1", "secret": "KEY", "tools": tools });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    conversation(1_000, all)
}

fn ask(session: &mut Session, content: &str) -> Value {
    send(session, json!({ "do": "ask", "content": content }))
}

fn says(text: &str) -> Value {
    json!({ "choices": [{ "delta": { "content": text }, "finish_reason": null }] })
}

fn calls(calls: &[(&str, &str)]) -> Value {
    let calls = calls.iter().enumerate().map(|(index, (name, arguments))| {
        let function = json!({ "name": name, "arguments": arguments });
        json!({ "index": index, "id": "c", "type": "function", "function": function })
    });
    let calls: Vec<_> = calls.collect();
    json!({ "choices": [{ "delta": { "tool_calls": calls }, "finish_reason": "tool_calls" }] })
}

fn stop() -> Value {
    json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }], "usage": { "total_tokens": 30 } })
}

/// The model answers the last request, which is open, with these chunks.
fn answers(session: &mut Session, chunks: &[Value]) {
    let id = session.requests().last().unwrap().id.clone();
    for chunk in chunks {
        session.part(&id, &chunk.to_string());
    }
    session.part(&id, "[DONE]");
    session.end(&id).unwrap();
}

/// What the last request gives the model.
fn asked(session: &Session) -> Value {
    session.requests().last().unwrap().parse().unwrap()
}

fn asked_messages(session: &Session) -> Vec<String> {
    let asked = asked(session);
    let messages = asked["messages"].as_array().unwrap().iter();
    let text = |it: &Value| it.as_str().unwrap().to_owned();
    messages.map(|it| format!("{}: {}", text(&it["role"]), text(&it["content"]))).collect()
}

fn phase(session: &mut Session) -> String {
    query(session, json!({ "what": "agent" }))["phase"].as_str().unwrap().to_owned()
}

/// The shape of a turn, as the API of models wants it, and as a page is told of it.
#[test]
fn a_question_is_asked_streamed_and_answered() {
    let mut session = agent(json!({ "system": "Be brief." }));
    let reply = ask(&mut session, "hello");
    assert_eq!(reply, json!({ "id": 1, "turn": 1, "request": "turn/1/1" }));
    let request = session.requests().last().unwrap();
    assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", URL));
    assert_eq!(request.header("authorization"), Some("Bearer {{secret:KEY}}"));
    let body = asked(&session);
    assert_eq!((&body["model"], &body["stream"]), (&json!("m-1"), &json!(true)));
    assert_eq!(body["stream_options"], json!({ "include_usage": true }));
    assert_eq!(asked_messages(&session), ["system: Be brief.", "user: hello"]);
    let tools = body["tools"].as_array().unwrap().iter();
    let tools: Vec<_> = tools.map(|tool| tool["function"]["name"].as_str().unwrap()).collect();
    assert_eq!(tools, ["weather", "count", "ask_human"]);

    answers(&mut session, &[says("Good "), says("day."), stop()]);
    let expected =
        ["appended", "thinking", "delta", "delta", "delta", "delta", "appended", "answered"];
    assert_eq!(kinds(&session), expected);
    let said = json!({ "turn": 1, "id": 2, "finish": "stop", "tokens": 30, "spent": 30 });
    assert_eq!(last(&session, "answered"), said);
    assert_eq!(last(&session, "appended")["request"], "turn/1/1");
    assert_eq!(phase(&mut session), "idle");

    ask(&mut session, "and now?");
    let window = ["system: Be brief.", "user: hello", "assistant: Good day.", "user: and now?"];
    assert_eq!(asked_messages(&session), window);
}

/// The budget is for what the model sees, however long the conversation.
#[test]
fn the_model_sees_the_window() {
    let mut session = agent(json!({ "budget": 39, "human": false, "tools": [] }));
    for (nth, question) in ["first", "second", "third"].into_iter().enumerate() {
        send(&mut session, json!({ "do": "ask", "content": question, "tokens": 15 }));
        answers(&mut session, &[says("yes"), stop()]);
        assert!(asked(&session)["tools"].is_null());
        assert_eq!(session.requests().len(), nth + 1);
    }
    assert_eq!(asked_messages(&session), ["user: second", "assistant: yes", "user: third"]);
    let long = json!({ "do": "ask", "content": "long", "tokens": 41 });
    assert_eq!(code(session.send("app", &long)), "over-budget");
    // A model that says more than the budget has can't be told to say it again.
    ask(&mut session, "go on");
    answers(&mut session, &[says(&"word ".repeat(500)), stop()]);
    let stats = query(&mut session, json!({ "what": "stats" }));
    assert!(stats["used"].as_u64().unwrap() <= 39, "{stats}");
}

/// Any session is a tool. The results come in any order, once each, over days.
#[test]
fn tools_are_sessions_and_their_results_go_to_the_model() {
    let mut session = agent(json!({}));
    ask(&mut session, "weather?");
    let wanted = [("weather", "{\"at\": \"home\"}"), ("count", ""), ("look", "{}"), ("count", "{")];
    answers(&mut session, &[says("Let me see."), calls(&wanted)]);
    let sent: Vec<_> =
        session.sent().iter().map(|it| (it.to.to_string(), it.body.clone())).collect();
    let expected = [("weather/session", "{\"at\":\"home\"}"), ("tool/count", "{}")];
    assert_eq!(sent, expected.map(|(to, body)| (to.to_owned(), body.as_bytes().to_vec())));
    assert_eq!(session.requests().len(), 1, "it waits for the tools");
    session.answer("call-1-1-1", &7).unwrap();
    session.advance(3 * DAY);
    assert_eq!(phase(&mut session), "calling");
    session.refuse("call-1-1-0", "no-weather", "There is none today.").unwrap();
    assert_eq!(session.requests().len(), 2);
    let messages = asked_messages(&session);
    assert_eq!(messages[..2], ["user: weather?", "assistant: Let me see."]);
    assert_eq!(messages[2], "tool: error: There is none today. (no-weather)");
    assert_eq!(messages[3..5], ["tool: 7", "tool: error: there is no tool look"]);
    assert!(messages[5].starts_with("tool: error: the arguments are no JSON"), "{messages:?}");
    let asked = asked(&session);
    let ids =
        |at: &Value| at.as_array().unwrap().iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    let ids = ids(&asked["messages"][1]["tool_calls"]);
    for (id, result) in ids.iter().zip(&asked["messages"].as_array().unwrap()[2..]) {
        assert_eq!(&result["tool_call_id"], id);
    }
    answers(&mut session, &[says("None."), stop()]);
    assert_eq!(phase(&mut session), "idle");
}

/// A tool with much to say must not end the turn, or fill the window.
#[test]
fn a_long_result_is_cut() {
    let mut session = agent(json!({}));
    ask(&mut session, "weather?");
    answers(&mut session, &[calls(&[("weather", "{}")])]);
    session.answer("call-1-1-0", &"rain ".repeat(20_000)).unwrap();
    let message = asked_messages(&session).pop().unwrap();
    assert!(message.ends_with("(cut)") && message.len() < 1_100, "{}", message.len());
}

/// Days may pass, and versions: what is open is in the state.
#[test]
fn a_question_to_a_person_waits_for_days() {
    for by in [json!({ "do": "answer", "call": "call-1-1-0" }), json!({ "do": "ask" })] {
        let mut session = agent(json!({ "quiet_ms": 1_000 }));
        ask(&mut session, "book it");
        let question = [("ask_human", "{\"question\": \"For which day?\"}")];
        answers(&mut session, &[calls(&question)]);
        let told = last(&session, "question");
        assert_eq!(
            (&told["call"], &told["question"]),
            (&json!("call-1-1-0"), &json!("For which day?"))
        );
        assert!(session.advance(6 * DAY).is_empty());
        assert_eq!(session.expires(), None, "it is not quiet while it waits");
        let mut session = session.swap::<ContextWindow>("2.0.0").unwrap();
        let mut message = by.clone();
        message["content"] = json!("Monday");
        assert_eq!(send(&mut session, message), json!({ "turn": 1, "answered": "call-1-1-0" }));
        assert_eq!(asked_messages(&session).last().unwrap(), "tool: Monday");
        assert!(session.timers().is_empty());
        let late = json!({ "do": "answer", "call": "call-1-1-0", "content": "Tuesday" });
        assert_eq!(code(session.send("ann", &late)), "no-question");
    }
}

#[test]
fn a_question_that_nobody_answers_has_an_end() {
    let mut session = agent(json!({ "question_ms": 2 * DAY.as_millis() as u64 }));
    ask(&mut session, "book it");
    answers(&mut session, &[calls(&[("ask_human", "{\"question\": \"When?\"}")])]);
    let message = json!({ "do": "unanswered", "call": "call-1-1-0" });
    assert_eq!(code(session.send("ann", &message)), "not-yours");
    assert!(session.advance(DAY).is_empty());
    assert_eq!(session.advance(DAY).len(), 1);
    assert_eq!(asked_messages(&session).last().unwrap(), "tool: error: nobody has answered");
}

/// What people type while it thinks is neither lost nor put into the middle of a turn.
#[test]
fn what_is_said_meanwhile_waits_for_its_turn() {
    let mut session = agent(json!({}));
    ask(&mut session, "one");
    assert_eq!(ask(&mut session, "two"), json!({ "turn": 1, "queued": 1 }));
    ask(&mut session, "three");
    let append = json!({ "do": "append", "role": "user", "content": "four" });
    assert_eq!(code(session.send("app", &append)), "busy");
    answers(&mut session, &[says("1"), stop()]);
    let messages = ["user: one", "assistant: 1", "user: two", "user: three"];
    assert_eq!(asked_messages(&session), messages);
    assert_eq!(session.requests().last().unwrap().id, "turn/2/1");
    for _ in 0..16 {
        ask(&mut session, "more");
    }
    assert_eq!(code(session.send("app", &json!({ "do": "ask", "content": "more" }))), "busy");
}

/// A turn without an end would use all tokens that there are.
#[test]
fn a_turn_has_so_many_rounds_and_a_session_so_many_tokens() {
    let mut session = agent(json!({ "rounds": 3, "tokens_max": 200 }));
    ask(&mut session, "count");
    for round in 1..3 {
        assert!(asked(&session)["tools"].is_array());
        answers(&mut session, &[calls(&[("count", "{}")]), stop()]);
        session.answer(&format!("call-1-{round}-0"), &round).unwrap();
    }
    assert!(asked(&session)["tools"].is_null(), "the last one has to answer");
    answers(&mut session, &[says("2"), stop()]);
    assert_eq!(last(&session, "answered")["spent"], 90);
    for _ in 0..3 {
        ask(&mut session, "again");
        answers(&mut session, &[says("2"), stop()]);
    }
    ask(&mut session, "again");
    answers(&mut session, &[calls(&[("count", "{}")]), stop()]);
    session.answer("call-5-1-0", &3).unwrap();
    assert_eq!(last(&session, "failed")["code"], "spent");
    assert_eq!(code(session.send("app", &json!({ "do": "ask", "content": "x" }))), "spent");
    send(&mut session, json!({ "do": "configure", "tokens_max": null }));
    send(&mut session, json!({ "do": "retry" }));
    assert_eq!(phase(&mut session), "thinking");
}

/// A failure must be seen, leave no half answer, and have a way on.
#[test]
fn a_model_that_fails_is_said_so_and_asked_again() {
    let mut session = agent(json!({}));
    ask(&mut session, "hello");
    session.part("turn/1/1", &says("Half an").to_string());
    session.restart("turn/1/1");
    session.part("turn/1/1", &says("Half").to_string());
    session.fail("turn/1/1", "deadline", "The time is over.").unwrap();
    let failed = json!({ "turn": 1, "code": "deadline", "reason": "The time is over." });
    assert_eq!(last(&session, "failed"), failed);
    assert_eq!(query(&mut session, json!({ "what": "stats" }))["messages"], 1);
    send(&mut session, json!({ "do": "retry" }));
    assert_eq!(asked_messages(&session), ["user: hello"]);
    let refused = json!({ "error": { "message": "no such model" } });
    session.respond("turn/2/1", 404, &refused).unwrap();
    let failed = json!({ "turn": 2, "code": "http-404", "reason": "no such model" });
    assert_eq!(last(&session, "failed"), failed);
    // To say something is a way on, too.
    ask(&mut session, "hello?");
    answers(&mut session, &[stop()]);
    assert_eq!(last(&session, "failed")["code"], "empty");
    ask(&mut session, "hello?");
    answers(&mut session, &[says("Yes."), stop()]);
    assert_eq!(code(session.send("app", &json!({ "do": "retry" }))), "not-failed");
}

#[test]
fn a_turn_can_be_cancelled() {
    let mut session = agent(json!({}));
    let cancel = json!({ "do": "cancel" });
    assert_eq!(send(&mut session, cancel.clone())["cancelled"], false);
    ask(&mut session, "hello");
    ask(&mut session, "wait");
    send(&mut session, cancel.clone());
    assert!(!session.requests()[0].open);
    assert_eq!(asked_messages(&session), ["user: hello", "user: wait"]);
    answers(&mut session, &[calls(&[("count", "{}"), ("ask_human", "{\"question\":\"?\"}")])]);
    send(&mut session, cancel);
    assert!(session.timers().is_empty());
    // The tool's result comes all the same.
    session.answer("call-2-1-0", &1).unwrap();
    assert_eq!(phase(&mut session), "idle");
    ask(&mut session, "go on");
    let messages = asked_messages(&session);
    let expected = ["tool: error: cancelled", "tool: error: cancelled", "user: go on"];
    assert_eq!(messages[messages.len() - 3..], expected);
}

/// Sessions of people who went away would stay for ever.
#[test]
fn it_expires_when_it_is_quiet_and_closes_when_it_is_told() {
    let mut session = agent(json!({ "quiet_ms": 60_000 }));
    let expires = |session: &Session| session.expires().map(|at| at - session.session().time_ms);
    assert_eq!(expires(&session), Some(60_000));
    ask(&mut session, "hello");
    assert_eq!(expires(&session), None, "it is at work");
    answers(&mut session, &[says("Yes."), stop()]);
    assert_eq!(expires(&session), Some(60_000));
    send(&mut session, json!({ "do": "configure", "quiet_ms": null }));
    assert_eq!(expires(&session), None);
    send(&mut session, json!({ "do": "close" }));
    assert!(session.is_closed());
    assert_eq!(last(&session, "closed"), json!({ "turn": 1 }));
    assert_eq!(query(&mut session, json!({ "what": "stats" }))["messages"], 2);
}

#[test]
fn what_can_not_be_set_is_refused() {
    let mut session = Session::new();
    let ask = json!({ "do": "ask", "content": "hello" });
    assert_eq!(code(session.send("app", &ask)), "not-configured");
    let tool = |name: &str, to: &str| json!([{ "name": name, "to": to }]);
    for bad in [
        json!({ "tools": tool("", "a/b") }),
        json!({ "tools": tool("a b", "a/b") }),
        json!({ "tools": tool("ask_human", "a/b") }),
        json!({ "tools": tool("look", "nowhere") }),
        json!({ "tools": [{ "name": "a" }, { "name": "a" }] }),
        json!({ "tools": [{ "name": "a", "description": "x".repeat(40_000) }] }),
        json!({ "rounds": 0 }),
        json!({ "answer_tokens": 100_000 }),
        json!({ "quiet_ms": 0 }),
        json!({ "question_ms": 1_000_000_000_000_u64 }),
        json!({ "url": "x".repeat(10_000) }),
    ] {
        let mut message = json!({ "do": "configure" });
        message.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert_eq!(code(session.send("app", &message)), "bad-message", "{bad}");
    }
    assert_eq!(session.seq(), 0);
}
