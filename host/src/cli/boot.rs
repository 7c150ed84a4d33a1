//! The answers of a node while it starts: in a cluster it may have to wait for the log engine, and
//! requests in that time get the reason.

use crate::{
    http::{App, Doing, Server},
    limits,
};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};

/// Both listeners, before there is a node.
pub(super) struct Booting {
    pub doing: Doing,
    admin: Held,
    api: Held,
}

/// A listener that is served until the node takes it over.
struct Held {
    done: oneshot::Sender<()>,
    served: JoinHandle<Server>,
}

impl Booting {
    /// The admin listener answers at once, for probes. The API lets its clients wait for a quick
    /// start, and refuses them during a delayed one.
    pub fn start(api: Server, admin: Server, control: &Handle) -> Self {
        let doing = Doing::default();
        let app = App::starting(doing.clone());
        let held_up = doing.clone();
        let first = async move { held_up.held_up(limits::BOOT_DELAY_MAX).await };
        let api = hold(api, app.clone(), first, &Handle::current());
        let admin = hold(admin, app, std::future::ready(()), control);
        Self { doing, admin, api }
    }

    /// Returns the listeners: API and admin.
    pub async fn done(self) -> Option<(Server, Server)> {
        // A serving task ends only by that order.
        let _ = (self.api.done.send(()), self.admin.done.send(()));
        Some((self.api.served.await.ok()?, self.admin.served.await.ok()?))
    }
}

fn hold(
    server: Server,
    app: App,
    first: impl Future<Output = ()> + Send + 'static,
    on: &Handle,
) -> Held {
    let (done, mut is_done) = oneshot::channel();
    let served = crate::task::spawn_on(on, "listener of a start", async move {
        tokio::select! {
            // Dropped unsent: the start has failed, and the process ends.
            _ = &mut is_done => return server,
            () = first => {}
        }
        server.serve_until(app, async move { drop(is_done.await) }).await
    });
    Held { done, served }
}
