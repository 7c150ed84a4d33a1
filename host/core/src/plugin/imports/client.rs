//! Who a client was shown to be, as a guest sees it: of a message what its record has, of a query what came with it.

use super::super::{bindings::slotd::slot::client as wit, instance::HostState};

impl wit::Host for HostState {
    fn current(&mut self) -> wasmtime::Result<Option<wit::Identity>> {
        let client = self.count()?.client.as_deref();
        Ok(client.map(|client| wit::Identity {
            subject: client.subject.as_deref().map(str::to_owned),
            kind: client.kind.to_string(),
            claims: client.claims.clone(),
        }))
    }
}
