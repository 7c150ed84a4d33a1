//! Operations of a node on its own slots.

use super::Operation;
use crate::{
    message::{Purged, Purpose},
    names::ServiceName,
};

/// Deletes sessions of every service.
#[derive(Clone, Debug)]
pub struct Reset;

/// Stops running a service that was removed in generation `since`, and deletes some of its
/// sessions.
#[derive(Clone, Debug)]
pub struct Purge {
    pub service: ServiceName,
    pub since: u64,
}

impl Operation for Reset {
    type Answer = Purged;
    const PURPOSE: Purpose = Purpose::Step;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        None
    }
}

impl Operation for Purge {
    type Answer = Purged;
    const PURPOSE: Purpose = Purpose::Step;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service)
    }
}
