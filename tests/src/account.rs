//! Accounts for messages: compares what was sent into rooms with what is stored afterwards.

use crate::api::Api;
use anyhow::Context;
use std::collections::BTreeMap;

/// What one room was sent: for each line its body, and its sequence number if it was acknowledged.
/// A line's idempotency key is `{room}-{line}`.
pub type Sent = Vec<(serde_json::Value, Option<u64>)>;

/// Summary of the history of all rooms.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub read_back: u64,
    /// Acknowledged, but missing at the acknowledged number.
    pub lost: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
}

impl Account {
    /// Reads all rooms, through each of these nodes in turn.
    ///
    /// # Errors
    /// If a room can't be read.
    pub async fn read(
        apis: &[Api],
        service: &str,
        rooms: &BTreeMap<String, Sent>,
    ) -> anyhow::Result<Self> {
        let mut account = Self::default();
        for ((room, sent), api) in rooms.iter().zip(apis.iter().cycle()) {
            if sent.iter().all(|(_, seq)| seq.is_none()) {
                continue;
            }
            let history = api.whole_history(service, room).await;
            let history = history.with_context(|| format!("reading {room}"))?;
            account.read_back += history.len() as u64;
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            let mut before: Option<u64> = None;
            for (at, entry) in history.iter().enumerate() {
                let id = entry.id.clone().unwrap_or_default();
                let line = id.strip_prefix(room).and_then(|id| id.strip_prefix('-')?.parse().ok());
                if entry.seq != at as u64 + 1 || line < before {
                    account.out_of_order += 1;
                }
                before = line.or(before);
                let count: &mut usize = seen.entry(id).or_default();
                *count += 1;
                if *count > 1 {
                    account.duplicated += 1;
                }
            }
            for (line, (body, seq)) in sent.iter().enumerate() {
                let Some(seq) = seq else { continue };
                let index = seq.checked_sub(1).and_then(|index| usize::try_from(index).ok());
                let entry = index.and_then(|index| history.get(index));
                let expected = format!("{room}-{line}");
                let found = entry.is_some_and(|entry| {
                    entry.id.as_ref() == Some(&expected) && entry.body.as_ref() == Some(body)
                });
                if !found {
                    account.lost += 1;
                }
            }
        }
        Ok(account)
    }

    /// Whether nothing is missing, duplicated or in the wrong place.
    pub fn good(&self) -> bool {
        self.lost + self.duplicated + self.out_of_order == 0
    }
}
