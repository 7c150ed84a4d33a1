//! A stock: a session of the service `stock` for each item. What it has is available, reserved or sold, and each
//! message moves some from one of them to another.
//!
//! | key | value |
//! |---|---|
//! | `level` | how much is available, reserved and sold, and the price |
//! | `hold/<cart>/<line>` | what a cart has reserved |

use serde::{Deserialize, Serialize};
use slotd_guest::{Address, Context, Error, Rejection, State, StateView, json};

const LEVEL: &str = "level";
const HOLDS: &str = "hold/";
/// Holds that a query lists.
const LISTED_MAX: usize = 100;
/// Of a count and of a price: their product, and the sum of a cart's, are far from the end of the numbers.
pub(crate) const NUMBER_MAX: u64 = 1_000_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Level {
    pub available: u64,
    pub reserved: u64,
    pub sold: u64,
    /// Of one.
    pub price: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reserved {
    pub count: u64,
    /// Of one: what the cart pays, whatever it costs later.
    pub price: u64,
}

/// What was sold or released by a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct View {
    #[serde(flatten)]
    level: Level,
    holds: Vec<Hold>,
}

#[derive(Debug, Serialize)]
struct Hold {
    cart: String,
    line: u64,
    count: u64,
}

fn key(cart: &Address, line: u64) -> String {
    format!("{HOLDS}{cart}/{line}")
}

fn level(state: &StateView) -> Result<Level, Error> {
    Ok(state.get(LEVEL)?.unwrap_or_default())
}

pub(crate) fn in_range(what: &str, number: u64, least: u64) -> Result<(), Rejection> {
    if (least..=NUMBER_MAX).contains(&number) {
        return Ok(());
    }
    Err(Rejection::new("bad-number", format!("{what} is {least} to {NUMBER_MAX}.")))
}

pub(crate) fn restock(cx: &mut Context, count: u64, price: u64) -> Result<Level, Rejection> {
    in_range("`count`", count, 1)?;
    in_range("`price`", price, 0)?;
    let mut state = cx.state();
    let mut level = level(&state)?;
    level.available += count;
    level.price = price;
    state.set(LEVEL, &level)?;
    cx.emit("level", &level)?;
    Ok(level)
}

pub(crate) fn reserve(
    cx: &mut Context,
    cart: &Address,
    line: u64,
    count: u64,
) -> Result<Reserved, Rejection> {
    in_range("`count`", count, 1)?;
    let (mut state, key) = (cx.state(), key(cart, line));
    if let Some(reserved) = state.get::<Reserved>(&key)? {
        return Ok(reserved);
    }
    let mut level = level(&state)?;
    if level.available < count {
        // Not retriable: the cart is told at once, and does not wait for someone to give some back.
        let text = format!("{} left.", level.available);
        return Err(Rejection::new("sold-out", text));
    }
    level.available -= count;
    level.reserved += count;
    let reserved = Reserved { count, price: level.price };
    state.set(&key, &reserved)?;
    state.set(LEVEL, &level)?;
    cx.emit("level", &level)?;
    Ok(reserved)
}

pub(crate) fn sell(cx: &mut Context, cart: &Address, line: u64) -> Result<Moved, Rejection> {
    let Some((count, mut level)) = take(&mut cx.state(), cart, line)? else {
        return Err(Rejection::new("not-reserved", "The cart has not reserved that."));
    };
    level.sold += count;
    cx.state().set(LEVEL, &level)?;
    cx.emit("sold", &json!({ "cart": cart, "count": count }))?;
    cx.emit("level", &level)?;
    Ok(Moved { count })
}

/// What is not reserved, any more or at all, is released.
pub(crate) fn release(cx: &mut Context, cart: &Address, line: u64) -> Result<Moved, Rejection> {
    let Some((count, mut level)) = take(&mut cx.state(), cart, line)? else {
        return Ok(Moved { count: 0 });
    };
    level.available += count;
    cx.state().set(LEVEL, &level)?;
    cx.emit("level", &level)?;
    Ok(Moved { count })
}

/// Ends a reservation: gives its count, and the level without it.
fn take(state: &mut State, cart: &Address, line: u64) -> Result<Option<(u64, Level)>, Error> {
    let key = key(cart, line);
    let Some(Reserved { count, .. }) = state.get(&key)? else { return Ok(None) };
    state.delete(&key);
    let mut level = level(state)?;
    level.reserved -= count;
    Ok(Some((count, level)))
}

pub(crate) fn view(state: &StateView) -> Result<View, Error> {
    let mut holds = Vec::new();
    for pair in state.scan::<Reserved>(HOLDS).take(LISTED_MAX) {
        let (key, Reserved { count, .. }) = pair?;
        let Some((cart, line)) = key[HOLDS.len()..].rsplit_once('/') else { continue };
        let (cart, line) = (cart.to_owned(), line.parse().unwrap_or(0));
        holds.push(Hold { cart, line, count });
    }
    Ok(View { level: level(state)?, holds })
}
