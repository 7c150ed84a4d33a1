//! Who a client was shown to be, under the harness.

use slotd_guest::{
    Client, Context, Handler, MigrateContext, QueryContext, Rejection, Value, json, test::Harness,
};
use std::time::Duration;

struct Desk;

impl Handler for Desk {
    type Message = Value;
    type Query = Value;

    fn handle(cx: &mut Context, message: Value) -> Result<impl serde::Serialize, Rejection> {
        let client = cx.client();
        if message == "later" {
            cx.timers().after("later", Duration::from_secs(1), &"now")?;
        }
        let role = client.as_ref().and_then(|client| client.claim("role")).map(str::to_owned);
        Ok(json!({"who": client.and_then(|client| client.subject), "role": role}))
    }
    fn query(cx: &QueryContext, _: Value) -> Result<impl serde::Serialize, Rejection> {
        Ok(cx.client().map(|client| client.kind))
    }
    fn migrate(_: &mut MigrateContext, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// A test could not say who its client is; and a handler would take a timer's message for that client's.
#[test]
fn a_client_is_who_the_test_says() {
    let mut desk = Harness::<Desk>::new();
    let send =
        |desk: &mut Harness<Desk>| desk.send("zoe", "later").unwrap().parse::<Value>().unwrap();
    assert_eq!(send(&mut desk), json!({"who": null, "role": null}));
    desk.set_client(Client::new("accounts", "ann").with("role", "staff"));
    assert_eq!(send(&mut desk), json!({"who": "ann", "role": "staff"}));
    assert_eq!(desk.query(&1).unwrap().parse::<Value>().unwrap(), json!("accounts"));
    let fired = desk.advance(Duration::from_secs(1));
    let replies: Vec<_> = fired
        .iter()
        .map(|it| it.result.as_ref().unwrap().parse::<Value>().unwrap()["who"].clone())
        .collect();
    assert_eq!(replies, [Value::Null]);
    let from_session = desk.deliver("a/b", &1).unwrap();
    assert_eq!(from_session.parse::<Value>().unwrap()["who"], Value::Null);
    let mut desk = desk.swap::<Desk>("1").unwrap();
    assert_eq!(send(&mut desk)["who"], "ann");
    desk.set_client(None);
    assert_eq!(desk.query(&1).unwrap().parse::<Value>().unwrap(), Value::Null);
}
