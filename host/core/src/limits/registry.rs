//! The registry of a cluster: catalogue, placement, components.

use std::time::Duration;

/// Time for one change or read of the registry, repeats included: longer than the engine's
/// election.
pub const REGISTRY_TIMEOUT: Duration = Duration::from_secs(20);
/// Back-off between repeats.
pub const REGISTRY_RETRY_MIN: Duration = Duration::from_millis(20);
pub const REGISTRY_RETRY_MAX: Duration = Duration::from_secs(1);
/// Times that a change of the placement starts from what another node wrote meanwhile.
pub const REGISTRY_SWAP_TRIES: usize = 32;
/// Time for one try to move a component: 64 MiB take 1.5 s on loopback.
pub const COMPONENT_TRY_TIMEOUT: Duration = Duration::from_secs(15);
/// Time to store or fetch a component in all.
pub const COMPONENT_TRANSFER_TIMEOUT: Duration = Duration::from_secs(60);
/// Times that the engine must answer "not found" before it counts.
pub const COMPONENT_MISSES: u32 = 5;
/// How often pieces of broken uploads are looked for. What is one at two looks is removed, so an
/// upload may take this long.
pub const COMPONENTS_SWEEP_INTERVAL: Duration = Duration::from_secs(3_600);
