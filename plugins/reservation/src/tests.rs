mod property;

use crate::{Message, Reservation, cart::LINES_MAX, payment::Charged, stock::Reserved};
use slotd_guest::{
    Value, json,
    test::{Failure, Harness},
};
use std::time::Duration;

type Session = Harness<Reservation>;

const MINUTE: Duration = Duration::from_secs(60);

fn cart() -> Session {
    let mut cart = Session::new();
    cart.session_mut().name = "c1".into();
    cart
}

/// A cart with two things that their stocks have reserved, for 11 in all.
fn full_cart() -> Session {
    let mut cart = cart();
    for (item, count, price, n) in [("tea", 2, 3, 1), ("milk", 1, 5, 2)] {
        send(&mut cart, json!({"do": "add", "item": item, "count": count}));
        cart.answer(&format!("reserve/{n}"), &Reserved { count, price }).unwrap();
    }
    cart
}

fn stock(count: u64) -> Session {
    let mut stock = Session::new();
    send(&mut stock, json!({"do": "restock", "count": count, "price": 3}));
    stock
}

fn send(to: &mut Session, message: Value) -> Value {
    to.send(None, &message).unwrap().parse().unwrap()
}

fn code(result: Result<slotd_guest::Reply, Failure>) -> String {
    result.unwrap_err().code().unwrap().to_owned()
}

fn seen(session: &mut Session) -> Value {
    session.query(&json!({})).unwrap().parse().unwrap()
}

/// What was sent since the first `skip`: to whom, and what.
fn sent(session: &Session, skip: usize) -> Vec<(String, String)> {
    let sent = session.sent().iter().skip(skip);
    sent.map(|it| {
        let body: Value = it.parse().unwrap();
        (it.to.to_string(), body["do"].as_str().unwrap().to_owned())
    })
    .collect()
}

fn kinds(session: &Session) -> Vec<&str> {
    session.events().iter().map(|event| &*event.kind).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn what_is_paid_is_sold() {
    let mut cart = full_cart();
    let view = send(&mut cart, json!({"do": "checkout", "account": "ann"}));
    assert_eq!((&view["status"], &view["total"]), (&json!("paying"), &json!(11)));
    assert_eq!(sent(&cart, 2), pairs(&[("payment/ann", "charge")]));
    cart.answer("charge", &Charged { amount: 11 }).unwrap();
    assert_eq!(sent(&cart, 3), pairs(&[("stock/tea", "sell"), ("stock/milk", "sell")]));
    // In any order.
    cart.answer("sell/2", &json!({"count": 1})).unwrap();
    cart.answer("sell/1", &json!({"count": 2})).unwrap();
    assert_eq!(kinds(&cart), ["reserved", "reserved", "paid", "closed"]);
    assert!(cart.timers().is_empty(), "what is paid does not expire");
}

/// Without it, who leaves a full cart behind keeps it from all others.
#[test]
fn what_nobody_pays_for_is_given_back_when_its_time_is_over() {
    let mut cart = full_cart();
    assert!(cart.advance(15 * MINUTE - Duration::from_millis(1)).is_empty());
    assert_eq!(cart.advance(Duration::from_millis(1)).len(), 1);
    assert_eq!(sent(&cart, 2), pairs(&[("stock/tea", "release"), ("stock/milk", "release")]));
    assert_eq!(code(cart.send(None, &json!({"do": "checkout", "account": "ann"}))), "closed");
    for n in 1..=2 {
        cart.answer(&format!("release/{n}"), &json!({"count": 1})).unwrap();
    }
    let view = json!({"status": "released", "total": 0, "lines": []});
    assert_eq!(seen(&mut cart), view);
    assert_eq!(kinds(&cart)[2..], ["released", "closed"]);
}

/// A release that is sent before the reserve is answered may come before it, and what was to be given back would
/// be reserved for ever.
#[test]
fn what_is_not_answered_yet_is_given_back_once_it_is() {
    let mut cart = cart();
    for item in ["tea", "milk"] {
        send(&mut cart, json!({"do": "add", "item": item, "count": 1}));
    }
    assert_eq!(code(cart.send(None, &json!({"do": "checkout", "account": "ann"}))), "not-yet");
    cart.advance(15 * MINUTE);
    assert_eq!((cart.sent().len(), kinds(&cart)), (2, vec!["released"]));
    cart.answer("reserve/1", &Reserved { count: 1, price: 3 }).unwrap();
    assert_eq!(sent(&cart, 2), pairs(&[("stock/tea", "release")]));
    cart.refuse("reserve/2", "sold-out", "0 left.").unwrap();
    cart.answer("release/1", &json!({"count": 1})).unwrap();
    assert_eq!(sent(&cart, 3), []);
    assert_eq!(kinds(&cart), ["released", "not-reserved", "closed"]);
}

/// To give back when the time is over, and then hear that it was paid, takes the money for nothing.
#[test]
fn a_timer_that_fires_while_the_payment_is_on_its_way_leaves_the_decision_to_it() {
    let paying = || {
        let mut cart = full_cart();
        send(&mut cart, json!({"do": "checkout", "account": "ann"}));
        assert_eq!(cart.advance(15 * MINUTE).len(), 1);
        assert_eq!(code(cart.send(None, &json!({"do": "cancel"}))), "not-yet");
        assert_eq!(cart.sent().len(), 3, "nothing is given back");
        cart
    };
    let mut paid = paying();
    paid.answer("charge", &Charged { amount: 11 }).unwrap();
    assert_eq!(sent(&paid, 3), pairs(&[("stock/tea", "sell"), ("stock/milk", "sell")]));
    let mut declined = paying();
    declined.refuse("charge", "declined", "No.").unwrap();
    assert_eq!(sent(&declined, 3), pairs(&[("stock/tea", "release"), ("stock/milk", "release")]));
}

#[test]
fn a_payment_that_is_refused_may_be_tried_again_until_the_time_is_over() {
    let mut cart = full_cart();
    send(&mut cart, json!({"do": "checkout", "account": "bob"}));
    cart.refuse("charge", "declined", "No.").unwrap();
    assert_eq!(seen(&mut cart)["status"], "open");
    send(&mut cart, json!({"do": "checkout", "account": "ann"}));
    // A client that sends it twice pays once.
    send(&mut cart, json!({"do": "checkout", "account": "ann"}));
    assert_eq!(sent(&cart, 3), pairs(&[("payment/ann", "charge")]));
    cart.refuse("charge", "plugin-trapped", "The handler failed.").unwrap();
    assert_eq!(cart.advance(15 * MINUTE).len(), 1);
    assert_eq!(sent(&cart, 4).len(), 2);
    assert_eq!(seen(&mut cart)["status"], "released");
}

/// A stock that fails for longer than slotd tries would keep what nobody has, or what is paid for.
#[test]
fn what_a_stock_refuses_to_take_back_or_to_sell_is_sent_again() {
    let mut released = full_cart();
    send(&mut released, json!({"do": "cancel"}));
    let mut paid = full_cart();
    send(&mut paid, json!({"do": "checkout", "account": "ann"}));
    paid.answer("charge", &Charged { amount: 11 }).unwrap();
    for (mut cart, what) in [(released, "release"), (paid, "sell")] {
        let so_far = cart.sent().len();
        cart.answer(&format!("{what}/1"), &json!({"count": 2})).unwrap();
        for again in 0..3 {
            cart.refuse(&format!("{what}/2"), "plugin-trapped", "The handler failed.").unwrap();
            assert_eq!(cart.advance(5 * MINUTE).len(), 1);
            assert_eq!(sent(&cart, so_far + again), pairs(&[("stock/milk", what)]));
        }
        cart.answer(&format!("{what}/2"), &json!({"count": 1})).unwrap();
        assert_eq!(kinds(&cart).last(), Some(&"closed"));
        assert!(cart.timers().is_empty());
    }
}

#[test]
fn a_stock_sells_no_more_than_it_has() {
    let mut stock = stock(3);
    let reserve = |line: u64, count: u64| json!({"do": "reserve", "line": line, "count": count});
    let reply = stock.deliver("cart/c1", &reserve(1, 2)).unwrap();
    assert_eq!(reply.parse::<Reserved>().unwrap(), Reserved { count: 2, price: 3 });
    assert_eq!(code(stock.deliver("cart/c2", &reserve(1, 2))), "sold-out");
    // The same again reserves nothing more, and another cart's is another one.
    stock.deliver("cart/c1", &reserve(1, 2)).unwrap();
    stock.deliver("cart/c2", &reserve(1, 1)).unwrap();
    let holds = json!([{"cart": "cart/c1", "line": 1, "count": 2}, {"cart": "cart/c2", "line": 1, "count": 1}]);
    let level = |available: u64, reserved: u64, sold: u64| json!({"available": available, "reserved": reserved, "sold": sold, "price": 3, "holds": []});
    assert_eq!(seen(&mut stock)["holds"], holds);

    stock.deliver("cart/c1", &json!({"do": "sell", "line": 1})).unwrap();
    assert_eq!(code(stock.deliver("cart/c1", &json!({"do": "sell", "line": 1}))), "not-reserved");
    for count in [1, 0] {
        let reply = stock.deliver("cart/c2", &json!({"do": "release", "line": 1})).unwrap();
        assert_eq!(reply.parse::<Value>().unwrap(), json!({"count": count}));
    }
    assert_eq!(seen(&mut stock), level(1, 0, 2));
    stock.deliver("cart/c1", &json!({"do": "release", "line": 1})).unwrap();
    assert_eq!(seen(&mut stock), level(1, 0, 2), "what is sold is not released");
}

#[test]
fn a_cart_pays_once_and_not_what_is_not_there() {
    let mut account = Session::new();
    send(&mut account, json!({"do": "deposit", "amount": 10}));
    let charge = |amount: u64| json!({"do": "charge", "amount": amount});
    assert_eq!(code(account.deliver("cart/c1", &charge(11))), "declined");
    for _ in 0..2 {
        account.deliver("cart/c1", &charge(7)).unwrap();
    }
    assert_eq!(seen(&mut account), json!({"balance": 3, "charged": 7}));
}

/// Any client can send any body to any session that it may reach.
#[test]
fn nobody_says_what_only_others_may() {
    let mut cart = full_cart();
    for what in ["expire", "again"] {
        assert_eq!(code(cart.send("ann", &json!({"do": what}))), "not-yours");
    }
    assert_eq!(code(cart.send("ann", &json!({"do": "deposit", "amount": 1}))), "wrong-kind");
    let mut stock = stock(3);
    for message in [
        json!({"do": "reserve", "line": 1, "count": 1}),
        json!({"do": "sell", "line": 1}),
        json!({"do": "release", "line": 1}),
    ] {
        assert_eq!(code(stock.send("ann", &message)), "not-yours");
    }
    let charge = json!({"do": "charge", "amount": 1});
    assert_eq!(code(Session::new().send("ann", &charge)), "not-yours");
    for (field, number) in [("count", 0), ("count", 1_000_001), ("hold_ms", 0)] {
        let mut message = json!({"do": "add", "item": "tea", "count": 1});
        message[field] = json!(number);
        assert_eq!(code(cart.send("ann", &message)), "bad-number");
    }
    assert_eq!(cart.sent().len(), 2);
}

/// All lines are sold, or given back, by one message, which may send so many.
#[test]
fn a_cart_has_an_end() {
    let mut cart = cart();
    let add = json!({"do": "add", "item": "tea", "count": 1});
    for n in 1..=LINES_MAX {
        send(&mut cart, add.clone());
        cart.answer(&format!("reserve/{n}"), &Reserved { count: 1, price: 1_000_000 }).unwrap();
    }
    assert_eq!(code(cart.send(None, &add)), "full");
    let total = send(&mut cart, json!({"do": "checkout", "account": "ann"}))["total"].clone();
    cart.answer("charge", &Charged { amount: total.as_u64().unwrap() }).unwrap();
    assert_eq!(cart.sent().len() as u64, 2 * LINES_MAX + 1);
}

/// Between sessions the same type is written and read, but clients write theirs by hand.
#[test]
fn messages_have_the_form_that_the_readme_says() {
    let message = serde(&Message::Add { item: "tea".into(), count: 2, hold_ms: None });
    assert_eq!(message, json!({"do": "add", "item": "tea", "count": 2, "hold_ms": null}));
    assert_eq!(serde(&Message::Cancel), json!({"do": "cancel"}));
}

fn serde(message: &Message) -> Value {
    slotd_guest::serde_json::to_value(message).unwrap()
}
