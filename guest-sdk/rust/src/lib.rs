#![doc = include_str!("../README.md")]

mod client;
mod context;
mod encode;
mod error;
mod handler;
mod host;
pub mod http;
mod sends;
mod state;
mod timers;

#[cfg(not(target_arch = "wasm32"))]
pub mod test;
#[cfg(all(feature = "types", not(target_arch = "wasm32")))]
pub mod types;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod wasm;

pub use crate::{
    client::Client,
    context::{Context, Level, MigrateContext, Origin, QueryContext},
    error::{Error, Rejection},
    handler::{Handler, RawHandler, Reply},
    sends::{Address, Answer, Outgoing},
    state::{Scan, State, StateView},
    timers::{Timer, Timers, TimersView, When},
};
/// So that a plugin needs no dependency of its own for `json!` and `Value`.
pub use serde_json::{self, Value, json};

#[cfg(target_arch = "wasm32")]
#[doc(hidden)] // its native twin has the documentation
#[macro_export]
macro_rules! export {
    ($handler:ty) => {
        const _: () = {
            type SlotdComponent = $crate::wasm::Component<$handler>;
    $crate::wasm::export_component!(SlotdComponent with_types_in $crate::wasm::bindings);
        };
    };
}

/// Makes a [`Handler`] or [`RawHandler`] the one that this component exports. Once per plugin, at
/// the top level of its `cdylib`; on other targets than `wasm32` it only checks the type.
///
/// ```
/// struct Echo;
/// impl slotd_guest::RawHandler for Echo {
///     fn handle(
///         _cx: &mut slotd_guest::Context,
///         body: Vec<u8>,
///     ) -> Result<slotd_guest::Reply, slotd_guest::Rejection> {
///         Ok(slotd_guest::Reply::bytes(body))
///     }
/// }
/// slotd_guest::export!(Echo);
/// # fn main() {}
/// ```
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! export {
    ($handler:ty) => {
        const _: () = {
            const fn is_a_handler<H: $crate::RawHandler>() {}
            is_a_handler::<$handler>();
        };
    };
}

macro_rules! log_macro {
    ($dollar:tt $name:ident $level:ident) => {
        #[doc = concat!("Writes a line to the node's log at level `", stringify!($name), "`: `",
                        stringify!($name), "!(cx, \"{} of {}\", n, total)`, in any context.")]
        #[macro_export]
        macro_rules! $name {
            ($dollar cx:expr, $dollar($dollar arg:tt)+) => {
                $dollar cx.log($crate::Level::$level, ::core::format_args!($dollar($dollar arg)+))
            };
        }
    };
}
log_macro!($ log_trace Trace);
log_macro!($ log_debug Debug);
log_macro!($ log_info Info);
log_macro!($ log_warn Warn);
log_macro!($ log_error Error);
