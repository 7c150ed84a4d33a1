//! The component's side: the generated bindings, and a [`RawHandler`] behind them.

use crate::host::Host;
use crate::{Context, Level, MigrateContext, QueryContext, RawHandler, Rejection, Reply, context};
use std::{cell::OnceCell, marker::PhantomData, sync::Once};

pub mod bindings {
    #![allow(missing_docs, clippy::all)]
    wit_bindgen::generate!({
        path: "../../wit",
        world: "handler",
        pub_export_macro: true,
        export_macro_name: "export_component",
    });
}
pub use bindings::export_component;
use bindings::slotd::slot::{log, state, types};

/// What [`crate::export!`] exports.
pub struct Component<H>(PhantomData<H>);

impl<H: RawHandler> bindings::Guest for Component<H> {
    fn handle(message: types::Message) -> Result<types::Reply, types::Rejection> {
        tell_panics();
        let types::Message { session, seq, id, origin, content_type, body, time_ms } = message;
        let source = match origin {
            types::Origin::Client(sender) => context::Source::Client(sender),
            types::Origin::Session(_) => context::Source::Session,
            types::Origin::Timer(name) => context::Source::Timer(name),
            types::Origin::Http(request) => context::Source::Http(request),
        };
        let origin = OnceCell::new();
        let mut cx =
            Context { host: Host, session, seq, time_ms, id, source, origin, content_type };
        H::handle(&mut cx, body).map(Into::into).map_err(Into::into)
    }

    fn query(query: types::QueryRequest) -> Result<types::Reply, types::Rejection> {
        tell_panics();
        let types::QueryRequest { session, seq, content_type, body, time_ms } = query;
        let cx = QueryContext { host: Host, session, seq, time_ms, content_type };
        H::query(&cx, body).map(Into::into).map_err(Into::into)
    }

    fn migrate(from: String) -> Result<(), String> {
        tell_panics();
        let mut cx = MigrateContext::new(Host);
        H::migrate(&mut cx, &from)?;
        if !cx.is_default {
            // The host takes a `migrate` that never looks at the state for none.
            state::scan("", None, 0);
        }
        Ok(())
    }
}

/// A panic ends in a bare trap: without this nothing would say why.
fn tell_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| log::write(log::Level::Error, &panic.to_string())));
    });
}

impl From<Reply> for types::Reply {
    fn from(Reply { content_type, body }: Reply) -> Self {
        Self { content_type, body }
    }
}
impl From<Rejection> for types::Rejection {
    fn from(Rejection { code, message, retriable }: Rejection) -> Self {
        Self { code: code.into_owned(), message: message.into_owned(), retriable }
    }
}
impl From<Level> for log::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}
