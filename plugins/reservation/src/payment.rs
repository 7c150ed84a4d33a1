//! An account that carts are paid from: a session of the service `payment` for each.
//!
//! | key | value |
//! |---|---|
//! | `account` | the balance, and how much was charged |
//! | `charge/<cart>` | what a cart has paid |

use crate::stock::in_range;
use serde::{Deserialize, Serialize};
use slotd_guest::{Address, Context, Error, Rejection, StateView, json};

const ACCOUNT: &str = "account";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub balance: u64,
    pub charged: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Charged {
    pub amount: u64,
}

pub(crate) fn account(state: &StateView) -> Result<Account, Error> {
    Ok(state.get(ACCOUNT)?.unwrap_or_default())
}

pub(crate) fn deposit(cx: &mut Context, amount: u64) -> Result<Account, Rejection> {
    in_range("`amount`", amount, 1)?;
    let mut state = cx.state();
    let mut account = account(&state)?;
    account.balance += amount;
    state.set(ACCOUNT, &account)?;
    Ok(account)
}

/// A cart pays once, however often it asks to.
pub(crate) fn charge(cx: &mut Context, cart: &Address, amount: u64) -> Result<Charged, Rejection> {
    let (mut state, key) = (cx.state(), format!("charge/{cart}"));
    if let Some(charged) = state.get::<Charged>(&key)? {
        return Ok(charged);
    }
    let mut account = account(&state)?;
    if account.balance < amount {
        return Err(Rejection::new("declined", "The account has not as much."));
    }
    account.balance -= amount;
    account.charged += amount;
    state.set(ACCOUNT, &account)?;
    let charged = Charged { amount };
    state.set(&key, &charged)?;
    cx.emit("charged", &json!({ "cart": cart, "amount": amount }))?;
    Ok(charged)
}
