//! A purchase as a saga of three kinds of sessions: a cart, stocks, an account to pay from. `README.md` shows
//! its shape, and what a message that is late, refused or doubled does.
//!
//! One component is deployed as three services: `cart`, `stock` and `payment`. A handler does not know the name of
//! its service, so the messages say it: each belongs to one kind of session, and a session is of the kind of its
//! first message.

mod cart;
mod payment;
mod stock;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use slotd_guest::{Address, Answer, Context, Handler, Origin, QueryContext, Rejection};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Message {
    // Of a cart, by clients.
    Add {
        item: String,
        count: u64,
        /// How long the cart reserves, from its first item on.
        #[serde(default)]
        hold_ms: Option<u64>,
    },
    Checkout {
        account: String,
    },
    Cancel,
    // Of a cart, by its timers.
    Expire,
    Again,

    // Of a stock, by clients.
    Restock {
        count: u64,
        price: u64,
    },
    // Of a stock, by carts. `line` is the cart's number for what it reserves.
    Reserve {
        line: u64,
        count: u64,
    },
    Sell {
        line: u64,
    },
    Release {
        line: u64,
    },

    // Of an account, by clients.
    Deposit {
        amount: u64,
    },
    // Of an account, by carts.
    Charge {
        amount: u64,
    },
}

#[derive(Deserialize)]
struct Query {}

#[derive(Serialize)]
#[serde(untagged)]
enum Reply {
    Cart(cart::View),
    Nothing {},
    Level(stock::Level),
    Reserved(stock::Reserved),
    Moved(stock::Moved),
    Account(payment::Account),
    Charged(payment::Charged),
}

#[derive(Serialize)]
#[serde(untagged)]
enum View {
    Cart(cart::View),
    Stock(stock::View),
    Account(payment::Account),
}

/// What a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Cart,
    Stock,
    Payment,
}

const KIND: &str = "kind";

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Cart => "a cart",
            Self::Stock => "a stock",
            Self::Payment => "an account",
        }
    }
}

impl Message {
    fn kind(&self) -> Kind {
        match self {
            Self::Add { .. }
            | Self::Checkout { .. }
            | Self::Cancel
            | Self::Expire
            | Self::Again => Kind::Cart,
            Self::Restock { .. }
            | Self::Reserve { .. }
            | Self::Sell { .. }
            | Self::Release { .. } => Kind::Stock,
            Self::Deposit { .. } | Self::Charge { .. } => Kind::Payment,
        }
    }
}

struct Reservation;

impl Handler for Reservation {
    type Message = Message;
    type Query = Query;

    fn handle(cx: &mut Context, message: Message) -> Result<impl Serialize, Rejection> {
        let mut state = cx.state();
        match state.get::<Kind>(KIND)? {
            None => state.set(KIND, &message.kind())?,
            Some(kind) if kind == message.kind() => {}
            Some(kind) => {
                let text = format!("This session is {}.", kind.name());
                return Err(Rejection::new("wrong-kind", text));
            }
        }
        Ok(match message {
            Message::Add { item, count, hold_ms } => {
                Reply::Cart(cart::add(cx, item, count, hold_ms)?)
            }
            Message::Checkout { account } => Reply::Cart(cart::checkout(cx, account)?),
            Message::Cancel => Reply::Cart(cart::cancel(cx)?),
            Message::Expire => {
                by_timer(cx)?;
                Reply::Cart(cart::expire(cx)?)
            }
            Message::Again => {
                by_timer(cx)?;
                Reply::Cart(cart::again(cx)?)
            }
            Message::Restock { count, price } => Reply::Level(stock::restock(cx, count, price)?),
            Message::Reserve { line, count } => {
                let cart = by_session(cx)?;
                Reply::Reserved(stock::reserve(cx, &cart, line, count)?)
            }
            Message::Sell { line } => {
                let cart = by_session(cx)?;
                Reply::Moved(stock::sell(cx, &cart, line)?)
            }
            Message::Release { line } => {
                let cart = by_session(cx)?;
                Reply::Moved(stock::release(cx, &cart, line)?)
            }
            Message::Deposit { amount } => Reply::Account(payment::deposit(cx, amount)?),
            Message::Charge { amount } => {
                let cart = by_session(cx)?;
                Reply::Charged(payment::charge(cx, &cart, amount)?)
            }
        })
    }

    /// Only carts ask.
    const ANSWERS: bool = true;

    fn answer(cx: &mut Context, answer: Answer) -> Result<impl Serialize, Rejection> {
        cart::answer(cx, &answer)?;
        Ok(Reply::Nothing {})
    }

    fn query(cx: &QueryContext, _query: Query) -> Result<impl Serialize, Rejection> {
        Ok(match cx.state().get::<Kind>(KIND)? {
            Some(Kind::Cart) => View::Cart(cart::view(&cx.state(), &cx.timers())?),
            Some(Kind::Stock) => View::Stock(stock::view(&cx.state())?),
            Some(Kind::Payment) => View::Account(payment::account(&cx.state())?),
            None => return Err(Rejection::new("no-kind", "Nobody has sent it a message.")),
        })
    }
}

/// Anyone can send the body of a timer's message.
fn by_timer(cx: &Context) -> Result<(), Rejection> {
    match cx.origin() {
        Origin::Timer { .. } => Ok(()),
        _ => Err(Rejection::new("not-yours", "Only the cart's own timer says so.")),
    }
}

/// Who reserves is who sells and releases, and no client can pretend to be a cart.
fn by_session(cx: &Context) -> Result<Address, Rejection> {
    match cx.origin() {
        Origin::Session { sender, .. } => Ok(sender.clone()),
        _ => Err(Rejection::new("not-yours", "Only a cart says so.")),
    }
}

slotd_guest::export!(Reservation);
