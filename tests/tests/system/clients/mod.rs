//! The conformance suite for client libraries: what holds for whoever uses one, while connections break and nodes die. Each library
//! is behind a driver, so that the scenarios are the same in every language: `clients/CONFORMANCE.md`.

mod answers;
mod room;
mod scenarios;

use slotd_tests::clients::Lang;

/// Without them, a client could lose what it sent, apply it twice, or show events twice, out of order or not at all.
macro_rules! libraries {
    ($($module:ident: $lang:ident;)*) => {
        $(mod $module {
            use super::{Lang, answers, scenarios};

            #[test]
            fn goes_on_where_connections_were_cut() {
                scenarios::cuts(Lang::$lang);
            }

            #[test]
            fn goes_on_after_a_node_was_killed_and_after_one_was_stopped() {
                scenarios::ends(Lang::$lang);
            }

            #[test]
            fn goes_on_through_a_network_that_swallows_delays_and_slows_down() {
                scenarios::weather(Lang::$lang);
            }

            #[test]
            fn keeps_its_connections_through_a_swap_and_a_pause_of_the_node() {
                scenarios::swaps(Lang::$lang);
            }

            #[test]
            fn begins_anew_with_a_session_that_was_deleted() {
                scenarios::deletes(Lang::$lang);
            }

            #[test]
            fn goes_on_behind_a_gap() {
                scenarios::gaps(Lang::$lang);
            }

            #[test]
            fn says_what_became_of_each_message() {
                answers::decides(Lang::$lang);
            }

            #[test]
            fn renews_its_token_and_ends_with_it() {
                answers::tokens(Lang::$lang);
            }

            #[test]
            fn tells_of_errors_by_their_codes() {
                answers::errors(Lang::$lang);
            }
        })*
    };
}

libraries! {
    typescript: TypeScript;
}
