//! A cart: the session that leads the saga. It is for one purchase.
//!
//! | key | value |
//! |---|---|
//! | `cart` | what it is doing |
//! | `line/<n>` | what it wants of an item, and how far that is |
//!
//! | timer | what for |
//! |---|---|
//! | `expire` | gives everything back when nobody has paid |
//! | `again` | sends what a stock refused to sell or release |

use crate::{
    Message, payment,
    stock::{self, in_range},
};
use serde::{Deserialize, Serialize};
use slotd_guest::{Answer, Context, Error, Rejection, StateView, TimersView, json, log_warn};
use std::time::Duration;

const CART: &str = "cart";
const LINES: &str = "line/";
const STOCK: &str = "stock";
const PAYMENT: &str = "payment";

/// Unless the first item says otherwise.
const HOLD_MS: u64 = 15 * 60 * 1_000;
const HOLD_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// What a cart may ask for in its life. All of it is sold, or released, by one message, which may send 256.
pub(crate) const LINES_MAX: u64 = 100;
/// After slotd's own attempts, which take an hour.
const AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    #[default]
    Open,
    /// The account was asked, and has not answered. Nothing is given back meanwhile.
    Paying,
    /// There is no way back from here: all that it has is sold to it.
    Paid,
    /// All that it has, and all that it may still get, is given back.
    Released,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cart {
    status: Status,
    /// Lines so far: the number of the last one.
    lines: u64,
    /// The time was over while it was paying.
    expired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// The stock has not answered. It may or may not be reserved.
    Asked,
    Reserved,
    Selling,
    Sold,
    Releasing,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub item: String,
    pub count: u64,
    pub price: u64,
    pub step: Step,
    /// The stock refused to sell or release it: the timer `again` sends that again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct View {
    pub status: Status,
    /// Of what is reserved or sold.
    pub total: u64,
    pub lines: Vec<Line>,
    /// When all is given back, if nobody pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

fn key(n: u64) -> String {
    format!("{LINES}{n:03}")
}

fn load(state: &StateView) -> Result<Cart, Error> {
    Ok(state.get(CART)?.unwrap_or_default())
}

fn lines(state: &StateView) -> Result<Vec<(u64, Line)>, Error> {
    let lines = state.scan::<Line>(LINES);
    lines.map(|pair| pair.map(|(key, line)| (number(&key[LINES.len()..]), line))).collect()
}

/// The keys are this module's own; 0 is no line.
fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn total(lines: &[(u64, Line)]) -> u64 {
    lines.iter().map(|(_, line)| line.count * line.price).sum()
}

pub(crate) fn view(state: &StateView, timers: &TimersView) -> Result<View, Error> {
    let lines = lines(state)?;
    Ok(View {
        status: load(state)?.status,
        total: total(&lines),
        lines: lines.into_iter().map(|(_, line)| line).collect(),
        expires_ms: timers.get("expire").map(|timer| timer.due_ms),
    })
}

fn shown(cx: &mut Context) -> Result<View, Rejection> {
    Ok(view(&cx.state(), &cx.timers())?)
}

/// Asks the item's stock for it. The time begins with the first item, so that no item keeps the others.
pub(crate) fn add(
    cx: &mut Context,
    item: String,
    count: u64,
    hold_ms: Option<u64>,
) -> Result<View, Rejection> {
    in_range("`count`", count, 1)?;
    let hold_ms = hold_ms.unwrap_or(HOLD_MS);
    if !(1..=HOLD_MS_MAX).contains(&hold_ms) {
        return Err(Rejection::new("bad-number", format!("`hold_ms` is 1 to {HOLD_MS_MAX}.")));
    }
    let mut state = cx.state();
    let mut cart = load(&state)?;
    if cart.status != Status::Open {
        return Err(closed());
    }
    if cart.lines == LINES_MAX {
        return Err(Rejection::new("full", format!("A cart has {LINES_MAX} lines.")));
    }
    if cart.lines == 0 {
        cx.timers().after("expire", Duration::from_millis(hold_ms), &Message::Expire)?;
    }
    cart.lines += 1;
    let n = cart.lines;
    cx.message_to((STOCK, &item))
        .reply_as(format!("reserve/{n}"))
        .send(&Message::Reserve { line: n, count })?;
    state.set(&key(n), &Line { item, count, price: 0, step: Step::Asked, again: false })?;
    state.set(CART, &cart)?;
    shown(cx)
}

fn closed() -> Rejection {
    Rejection::new("closed", "The cart is paid, or was given back: take another one.")
}

/// Asks the account for the money. To ask twice is no error: it is asked once.
pub(crate) fn checkout(cx: &mut Context, account: String) -> Result<View, Rejection> {
    let mut state = cx.state();
    let mut cart = load(&state)?;
    match cart.status {
        Status::Open => {}
        Status::Paying | Status::Paid => return shown(cx),
        Status::Released => return Err(closed()),
    }
    let lines = lines(&state)?;
    if lines.is_empty() {
        return Err(Rejection::new("empty", "Nothing is reserved."));
    }
    if lines.iter().any(|(_, line)| line.step == Step::Asked) {
        let text = "A stock has not answered yet.";
        return Err(Rejection::new("not-yet", text).retriable());
    }
    let amount = total(&lines);
    cx.message_to((PAYMENT, account)).reply_as("charge").send(&Message::Charge { amount })?;
    cart.status = Status::Paying;
    state.set(CART, &cart)?;
    shown(cx)
}

pub(crate) fn cancel(cx: &mut Context) -> Result<View, Rejection> {
    let cart = load(&cx.state())?;
    match cart.status {
        Status::Open => give_back(cx, cart, "cancelled")?,
        // It may be paid already. Who gives back now has neither the money nor the goods.
        Status::Paying => {
            let text = "The account has not answered yet.";
            return Err(Rejection::new("not-yet", text).retriable());
        }
        Status::Paid => return Err(Rejection::new("paid", "It is paid.")),
        Status::Released => {}
    }
    shown(cx)
}

/// The time is over. While the account is asked it may have paid: then its answer decides.
pub(crate) fn expire(cx: &mut Context) -> Result<View, Rejection> {
    let mut cart = load(&cx.state())?;
    match cart.status {
        Status::Open => give_back(cx, cart, "expired")?,
        Status::Paying => {
            cart.expired = true;
            cx.state().set(CART, &cart)?;
        }
        Status::Paid | Status::Released => {}
    }
    shown(cx)
}

/// Compensates what is reserved. What was only asked for is compensated by its answer: a release that is sent
/// now might come before the reserve, which may wait to be tried again, and would release nothing.
fn give_back(cx: &mut Context, mut cart: Cart, why: &str) -> Result<(), Rejection> {
    cart.status = Status::Released;
    cx.state().set(CART, &cart)?;
    cx.timers().cancel("expire");
    cx.emit("released", &json!({ "why": why }))?;
    for (n, line) in lines(&cx.state())? {
        if line.step == Step::Reserved {
            end(cx, n, line, Step::Releasing)?;
        }
    }
    close(cx)
}

/// Has the stock sell or release a line.
fn end(cx: &mut Context, n: u64, mut line: Line, step: Step) -> Result<(), Rejection> {
    let (name, message) = match step {
        Step::Selling => (format!("sell/{n}"), Message::Sell { line: n }),
        _ => (format!("release/{n}"), Message::Release { line: n }),
    };
    cx.message_to((STOCK, &line.item)).reply_as(name).send(&message)?;
    (line.step, line.again) = (step, false);
    Ok(cx.state().set(&key(n), &line)?)
}

/// Says so when nothing is left to be done.
fn close(cx: &mut Context) -> Result<(), Rejection> {
    let (cart, lines) = (load(&cx.state())?, lines(&cx.state())?);
    let is_closed = match cart.status {
        Status::Open | Status::Paying => false,
        Status::Paid => lines.iter().all(|(_, line)| line.step == Step::Sold),
        Status::Released => lines.is_empty(),
    };
    if is_closed {
        cx.emit("closed", &json!({ "status": cart.status }))?;
    }
    Ok(())
}

/// What came of what the cart has sent: there is one outcome for each, at any time, in any order.
pub(crate) fn answer(cx: &mut Context, answer: &Answer) -> Result<(), Rejection> {
    if answer.name == "charge" {
        return charged(cx, answer);
    }
    let (what, n) = answer.name.split_once('/').unwrap_or_default();
    let n = number(n);
    let Some(line) = cx.state().get::<Line>(&key(n))? else {
        return Err(Rejection::new("no-line", format!("There is no line for {}.", answer.name)));
    };
    match what {
        "reserve" => reserved(cx, n, line, answer),
        _ => ended(cx, n, line, answer),
    }
}

fn reserved(cx: &mut Context, n: u64, mut line: Line, answer: &Answer) -> Result<(), Rejection> {
    match answer.parse::<stock::Reserved>() {
        Ok(stock::Reserved { price, .. }) => {
            line.price = price;
            if load(&cx.state())?.status == Status::Released {
                return end(cx, n, line, Step::Releasing);
            }
            line.step = Step::Reserved;
            cx.state().set(&key(n), &line)?;
            cx.emit("reserved", &json!({ "item": line.item, "count": line.count }))?;
            Ok(())
        }
        // Sold out, or the stock failed it again and again: in any case nothing is reserved.
        Err(refusal) => {
            cx.state().delete(&key(n));
            let (code, message) = (refusal.code(), refusal.message());
            let body = json!({ "item": line.item, "code": code, "message": message });
            cx.emit("not-reserved", &body)?;
            close(cx)
        }
    }
}

fn charged(cx: &mut Context, answer: &Answer) -> Result<(), Rejection> {
    let mut cart = load(&cx.state())?;
    match answer.parse::<payment::Charged>() {
        Ok(payment::Charged { amount }) => {
            cart.status = Status::Paid;
            cx.state().set(CART, &cart)?;
            cx.timers().cancel("expire");
            cx.emit("paid", &json!({ "amount": amount }))?;
            for (n, line) in lines(&cx.state())? {
                end(cx, n, line, Step::Selling)?;
            }
            Ok(())
        }
        // Nothing was charged: where a message is refused, nothing of it is kept.
        Err(refusal) => {
            let (code, message) = (refusal.code(), refusal.message());
            cx.emit("declined", &json!({ "code": code, "message": message }))?;
            if cart.expired {
                return give_back(cx, cart, "expired");
            }
            // Until the time is over there may be another try, from another account.
            cart.status = Status::Open;
            Ok(cx.state().set(CART, &cart)?)
        }
    }
}

fn ended(cx: &mut Context, n: u64, mut line: Line, answer: &Answer) -> Result<(), Rejection> {
    if let Err(refusal) = &answer.result {
        // Neither can be left undone, however long the stock fails it.
        log_warn!(cx, "{} of {}: {refusal}; trying again", answer.name, line.item);
        line.again = true;
        cx.timers().after("again", AGAIN_AFTER, &Message::Again)?;
        return Ok(cx.state().set(&key(n), &line)?);
    }
    if line.step == Step::Selling {
        line.step = Step::Sold;
        cx.state().set(&key(n), &line)?;
    } else {
        cx.state().delete(&key(n));
    }
    close(cx)
}

pub(crate) fn again(cx: &mut Context) -> Result<View, Rejection> {
    for (n, line) in lines(&cx.state())? {
        if line.again {
            let step = line.step;
            end(cx, n, line, step)?;
        }
    }
    shown(cx)
}
