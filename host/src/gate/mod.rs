//! The gate on one node: a new version on what the node has stored, before a slot runs it.
//!
//! - `part` is the node's part of one stage: its threads, its budget, how far it is, and where it goes on.
//! - `interface`, `migrate`, `replay` and `cost` are the stages. The last three see one session after the other.
//!
//! What differs and what stops is decided by the core ([`crate::gate_report`]), of what all nodes have found. Nothing is
//! written, no effect is carried out, and no slot knows of it: it reads what the slots have flushed, as an audit does.

mod cost;
mod interface;
mod migrate;
pub mod part;
mod replay;

pub use part::{Part, Parts};

use crate::{
    error::StateError,
    replay::{check::Left, stored::Stored},
    replay_engine::Base,
};

/// The session as it is stored, without its effects: `migrate` asks for none.
fn state_of(stored: Stored<'_>) -> Result<Base, Left> {
    let head = stored.head;
    let (mut state, mut pairs) = (Vec::new(), stored.state());
    while let Some((key, value)) = pairs.next()? {
        let key = String::from_utf8(key.to_vec())
            .map_err(|_| StateError::Corrupt("a key of the state is no text".into()))?;
        state.push((key, value));
    }
    Ok(Base {
        seq: head.seq,
        created_ms: head.created_ms,
        updated_ms: head.updated_ms,
        deployment: head.deployment,
        state,
        effects: Vec::new(),
    })
}
