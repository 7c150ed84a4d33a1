//! The smallest useful plugin: counts a session's messages, with one `get` and one `set` each.
//!
//! - A message `{"add": 3}` adds 3; a message with any other body (any bytes) adds 1.
//! - The reply, and the answer to a query, is the count as JSON.
//! - Rejections: `bad-add` where `add` is no whole number of 0 or more, `count-overflow`.

use slotd_guest::{Context, QueryContext, RawHandler, Rejection, Reply, Value, serde_json};

struct Counter;

const COUNT: &str = "count";

impl RawHandler for Counter {
    fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection> {
        let add = addend(&body)?;
        let mut state = cx.state();
        let count = state
            .get::<u64>(COUNT)?
            .unwrap_or(0)
            .checked_add(add)
            .ok_or_else(|| Rejection::new("count-overflow", "the count is at its end"))?;
        let reply = Reply::json(&count)?;
        state.set_bytes(COUNT, &reply.body);
        Ok(reply)
    }

    fn query(cx: &QueryContext, _body: Vec<u8>) -> Result<Reply, Rejection> {
        Ok(Reply::json(&cx.state().get::<u64>(COUNT)?.unwrap_or(0))?)
    }
}

fn addend(body: &[u8]) -> Result<u64, Rejection> {
    // Almost every body is no JSON object: don't wake the parser for those.
    if body.first() != Some(&b'{') {
        return Ok(1);
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(message) => match message.get("add") {
            Some(add) => add
                .as_u64()
                .ok_or_else(|| Rejection::new("bad-add", "`add` is a whole number of 0 or more")),
            None => Ok(1),
        },
        Err(_) => Ok(1),
    }
}

slotd_guest::export!(Counter);

#[cfg(test)]
mod tests {
    use super::*;
    use slotd_guest::{json, test::Harness};

    fn count(counter: &mut Harness<Counter>) -> u64 {
        counter.query_bytes("", []).unwrap().parse().unwrap()
    }

    /// The benchmark sends 32 arbitrary bytes: a body that is refused would stop it.
    #[test]
    fn any_body_adds_one() {
        let mut counter = Harness::<Counter>::new();
        let bodies: [&[u8]; 6] = [b"", &[0xff; 32], b"{", b"{}", b"[1]", b"{\"sub\": 1}"];
        for (i, body) in bodies.iter().enumerate() {
            let reply = counter.send_bytes(None, "application/octet-stream", *body).unwrap();
            assert_eq!(reply.parse::<u64>().unwrap(), i as u64 + 1);
        }
        assert_eq!(count(&mut counter), bodies.len() as u64);
        assert!(counter.events().is_empty());
    }

    /// A count that wraps around, or a bad `add` that counts as one, would be silently wrong.
    #[test]
    fn adds_what_it_is_told_or_refuses() {
        let mut counter = Harness::<Counter>::new();
        counter.send(None, &json!({"add": 41})).unwrap();
        counter.send(None, &json!({"add": 0})).unwrap();
        counter.send(None, &json!({})).unwrap();
        assert_eq!(count(&mut counter), 42);
        for add in [json!(-1), json!(1.5), json!("1"), json!(null)] {
            let refused = counter.send(None, &json!({"add": add})).unwrap_err();
            assert_eq!(refused.code(), Some("bad-add"));
        }
        let refused = counter.send(None, &json!({"add": u64::MAX})).unwrap_err();
        assert_eq!(refused.code(), Some("count-overflow"));
        assert_eq!((count(&mut counter), counter.seq()), (42, 3));
    }
}
