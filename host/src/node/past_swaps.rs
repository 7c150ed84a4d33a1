//! This node's part of each service's last swap, stored for after a restart.

use crate::{names::ServiceName, storage::DataDir, swap::SwapShare};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The key among the data directory's own values.
const SWAPS: &str = "swaps";
/// The version of the encoding, which is JSON.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    swaps: BTreeMap<ServiceName, SwapShare>,
}

/// The last finished swap of each service on this node.
pub(super) struct PastSwaps {
    data_dir: Arc<DataDir>,
    swaps: Mutex<BTreeMap<ServiceName, SwapShare>>,
    /// One write at a time, so that the last one has everything.
    writing: Mutex<()>,
}

impl PastSwaps {
    /// Reads the stored swaps. Unreadable data is dropped; it is not worth a failed start.
    pub fn open(data_dir: Arc<DataDir>) -> Self {
        let stored = data_dir.meta_get(SWAPS).map_err(|e| e.to_string());
        let swaps = stored.and_then(|bytes| bytes.map_or(Ok(BTreeMap::new()), |b| read(&b)));
        let swaps = swaps.unwrap_or_else(|why| {
            tracing::warn!("can't read how earlier swaps ended: {why}");
            BTreeMap::new()
        });
        Self { data_dir, swaps: Mutex::new(swaps), writing: Mutex::default() }
    }

    pub fn get(&self, service: &ServiceName) -> Option<SwapShare> {
        self.swaps.lock().get(service).cloned()
    }

    /// Stores the result of a swap. If it was stored before, the first time counts: a starting node
    /// repeats the swap's steps.
    pub fn keep(self: &Arc<Self>, service: &ServiceName, share: SwapShare) {
        {
            let mut swaps = self.swaps.lock();
            let known = swaps.get(service).map(|known| &known.info);
            if known.is_some_and(|known| known.generation == share.info.generation && known.done) {
                return;
            }
            swaps.insert(service.clone(), share);
        }
        self.write();
    }

    /// Forgets a removed service.
    pub fn forget(self: &Arc<Self>, service: &ServiceName) {
        if self.swaps.lock().remove(service).is_some() {
            self.write();
        }
    }

    fn write(self: &Arc<Self>) {
        let this = self.clone();
        crate::task::blocking(move || {
            let _turn = this.writing.lock();
            let stored = Stored { format: FORMAT, swaps: this.swaps.lock().clone() };
            let written = serde_json::to_vec(&stored)
                .map_err(|e| e.to_string())
                .and_then(|b| this.data_dir.meta_put_durable(SWAPS, &b).map_err(|e| e.to_string()));
            if let Err(why) = written {
                tracing::warn!(
                    "can't store how a swap ended; the record will be missing after a restart: \
                     {why}"
                );
            }
        });
    }
}

fn read(bytes: &[u8]) -> Result<BTreeMap<ServiceName, SwapShare>, String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    match stored.format {
        FORMAT => Ok(stored.swaps),
        other => Err(format!("they have format {other}, this slotd reads {FORMAT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a version has written must be read by the next one.
    #[test]
    fn what_was_kept_is_read() {
        let kept = r#"{"format": 1, "swaps": {"chat": {"pauses_us": [1.5], "info": {
            "generation": 3, "from": "1.0.0+a", "to": "2.0.0+b", "slots": 1, "moved": 1,
            "done": true, "error": null, "started_ms": 7, "elapsed_ms": 1.0,
            "pause_p50_us": 1.5, "pause_p99_us": 1.5, "pause_max_us": 1.5}}}}"#;
        let swaps = read(kept.as_bytes()).unwrap();
        let chat = &swaps[&ServiceName::parse("chat").unwrap()];
        assert_eq!((chat.info.generation, chat.info.done), (3, true));
        let other = read(kept.replace("\"format\": 1", "\"format\": 2").as_bytes());
        assert!(other.unwrap_err().contains("format 2"));
    }
}
