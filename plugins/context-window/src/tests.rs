mod agent;
mod window;

use crate::ContextWindow;
use slotd_guest::{
    Value, json,
    test::{Failure, Harness},
};

type Session = Harness<ContextWindow>;

fn send(session: &mut Session, message: Value) -> Value {
    session.send("app", &message).unwrap().parse().unwrap()
}

fn query(session: &mut Session, query: Value) -> Value {
    session.query(&query).unwrap().parse().unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result {
        Err(Failure::Rejected(rejection)) => rejection.code().to_owned(),
        other => panic!("not rejected: {other:?}"),
    }
}

fn kinds(session: &Session) -> Vec<&str> {
    session.events().iter().map(|event| event.kind.as_str()).collect()
}

/// The body of the last event of a kind.
fn last(session: &Session, kind: &str) -> Value {
    let found = session.events().iter().rev().find(|event| event.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:?}", kinds(session))).parse().unwrap()
}

fn contents(shown: &Value) -> Vec<&str> {
    let messages = shown["messages"].as_array().unwrap();
    messages.iter().map(|message| message["content"].as_str().unwrap()).collect()
}

fn conversation(budget: u64, more: Value) -> Session {
    let mut session = Session::new();
    let mut configure = json!({ "do": "configure", "budget": budget });
    configure.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    send(&mut session, configure);
    session
}
