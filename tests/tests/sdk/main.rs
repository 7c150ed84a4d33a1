//! The conformance suite for SDKs: the same sessions, replies, events and failures in every
//! language, through a real node. `tests/conformance/` holds what can be said in scripts, in the
//! format of `slotd plugin test --wasm`; what can't be is here.
//!
//! It needs the built plugins: `cargo xtask test` builds them and runs this. By hand afterwards:
//! `cargo test -p slotd-tests --test sdk python`.

mod bodies;
mod expire;
mod failures;
mod http;
mod migrate;
mod pages;
mod play;
mod random;
mod sends;
mod sim;
mod suite;
mod templates;
mod timers;
mod types;
mod wasm;
mod watched;
mod web;

use slotd_tests::plugins::Lang;

/// Without them, what holds for a handler in one language would not hold in another.
macro_rules! languages {
    ($($module:ident: $lang:ident;)*) => {
        $(mod $module {
            use super::{Lang, suite, templates, wasm};

            #[test]
            fn conforms_on_a_node() {
                suite::run(Lang::$lang, suite::ISOLATIONS[0]);
            }

            /// A handler of which this fails keeps something in memory between calls.
            #[test]
            fn conforms_with_an_instance_for_each_session() {
                suite::run(Lang::$lang, suite::ISOLATIONS[1]);
            }

            #[test]
            fn conforms_with_an_instance_for_each_call() {
                suite::run(Lang::$lang, suite::ISOLATIONS[2]);
            }

            #[test]
            fn conforms_in_plugin_test_wasm() {
                wasm::run(Lang::$lang);
            }

            #[test]
            fn its_template_is_right_and_goes_back() {
                templates::run(Lang::$lang);
            }
        })*
    };
}

languages! {
    rust: Rust;
    js: Js;
    ts: Ts;
    python: Python;
    c: C;
}
