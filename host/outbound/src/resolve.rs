//! Finds the addresses of names, and lets through only what the policy does. The client connects to what has been
//! checked here, and asks nobody again: an answer that changes in between changes nothing.

use crate::{address::Reach, limits, policy::address_refused};
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolving};
use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// Finds addresses.
pub trait Resolve: Send + Sync + 'static {
    fn resolve(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's: what other programs of the machine find, this finds. One is enough for all rule sets, and bounds its
/// threads only then.
#[derive(Clone)]
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::LOOKUPS_MAX)))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let places = Arc::clone(&self.0);
        Box::pin(async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            // Who waits may go; the thread, and its place, go on until the system answers.
            #[expect(
                clippy::disallowed_methods,
                reason = "its crate's own; it holds nothing but a place"
            )]
            let found = tokio::task::spawn_blocking(move || {
                let _place = place;
                let found = (host.as_str(), 0).to_socket_addrs()?;
                Ok(found.map(|address| address.ip()).take(limits::ADDRESSES_MAX).collect())
            });
            found.await.map_err(io::Error::other)?
        })
    }
}

/// An address is not to be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AddressRefused(pub(crate) String);

/// Between a resolver and the client.
pub(crate) struct Guard {
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) reach: Reach,
}

impl reqwest::dns::Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let reach = self.reach;
        let found = self.resolver.resolve(host.clone());
        Box::pin(async move {
            let mut found = found.await?;
            found.truncate(limits::ADDRESSES_MAX);
            if found.is_empty() {
                return Err(io::Error::other("the name has no address").into());
            }
            // One that is refused refuses all: who mixes public and private addresses means no good, or is private.
            if let Some(refused) = found.iter().find(|address| !reach.has(**address)) {
                return Err(AddressRefused(address_refused(&host, *refused)).into());
            }
            let found = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(found) as Addrs)
        })
    }
}
