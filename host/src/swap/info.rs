//! The progress of a swap, on one node and on all.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A swap: every slot switches to another deployment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SwapInfo {
    pub generation: u64,
    /// Labels.
    pub from: Option<String>,
    pub to: String,
    pub slots: u32,
    pub moved: u32,
    pub done: bool,
    /// Why it does not proceed, if it does not.
    pub error: Option<String>,
    pub started_ms: u64,
    /// From the start until the last slot had switched (or until now).
    pub elapsed_ms: f64,
    /// How long a slot took no message, over the slots switched so far.
    pub pause_p50_us: f64,
    pub pause_p99_us: f64,
    pub pause_max_us: f64,
}

/// The value that a `share` of the sorted `values` does not exceed; 0 where there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).ceil() as usize).copied().unwrap_or(0.0)
}

impl SwapShare {
    /// What all nodes did of one swap, as one.
    pub fn sum(shares: Vec<SwapShare>) -> Option<SwapInfo> {
        let mut pauses: Vec<f64> =
            shares.iter().flat_map(|s| s.pauses_us.iter().copied()).collect();
        pauses.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&pauses, share);
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        let sum = shares.into_iter().map(|share| share.info).reduce(|a, b| SwapInfo {
            from: a.from.or(b.from),
            slots: a.slots + b.slots,
            moved: a.moved + b.moved,
            done: a.done && b.done,
            error: a.error.or(b.error),
            started_ms: a.started_ms.min(b.started_ms),
            elapsed_ms: a.elapsed_ms.max(b.elapsed_ms),
            ..a
        })?;
        Some(SwapInfo { pause_p50_us: p50, pause_p99_us: p99, pause_max_us: max, ..sum })
    }
}

/// What one node did of a swap.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwapShare {
    pub info: SwapInfo,
    pub pauses_us: Vec<f64>,
}
