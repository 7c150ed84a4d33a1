//! Counts a session's messages, against version 1.0 of the interface as it was published
//! (`tests/wit/1.0`): for the test that components which were built against it run as they did. So it
//! names the bindings that are made of that text, and no SDK.
#![cfg(target_arch = "wasm32")]

use exports::*;

mod exports {
    #![allow(missing_docs, clippy::all)]
    wit_bindgen::generate!({ path: "../../tests/wit/1.0", world: "handler" });

    pub use self::slotd::slot::{effects, log, state, types};
}

struct Counter;

fn count() -> u64 {
    let stored = state::get("count").and_then(|bytes| String::from_utf8(bytes).ok());
    stored.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn reply(text: String) -> Reply {
    Reply { content_type: "application/json".into(), body: text.into_bytes() }
}

impl Guest for Counter {
    fn handle(message: Message) -> Result<Reply, Rejection> {
        if message.body == b"no" {
            let (code, message) = ("no".into(), "No means no.".into());
            return Err(Rejection { code, message, retriable: false });
        }
        let count = (count() + 1).to_string();
        state::set("count", count.as_bytes());
        let sender = match message.origin {
            types::Origin::Client(sender) => sender.unwrap_or_default(),
            _ => String::new(),
        };
        effects::emit(&types::Event {
            kind: "counted".into(),
            content_type: "text/plain".into(),
            body: sender.into_bytes(),
        });
        log::write(log::Level::Info, &format!("counted {count}"));
        Ok(reply(count))
    }

    fn query(_: QueryRequest) -> Result<Reply, Rejection> {
        Ok(reply(count().to_string()))
    }

    fn migrate(_: String) -> Result<(), String> {
        state::scan("", None, 0);
        Ok(())
    }
}

export!(Counter with_types_in exports);
