//! The language's own clock, randomness and output. A component that imports no WASI has none in
//! Rust, so this one imports what `std` would on a target that has them.

use slotd_guest::{Context, Level};

#[cfg(target_arch = "wasm32")]
mod bindings {
    #![allow(clippy::all)]
    wit_bindgen::generate!({
        inline: r#"
            package slotd:kitchen-sink;
            world native {
                import wasi:clocks/wall-clock@0.2.0;
                import wasi:random/random@0.2.0;
            }
            package wasi:clocks@0.2.0 {
                interface wall-clock {
                    record datetime { seconds: u64, nanoseconds: u32 }
                    now: func() -> datetime;
                }
            }
            package wasi:random@0.2.0 {
                interface random {
                    get-random-bytes: func(len: u64) -> list<u8>;
                    get-random-u64: func() -> u64;
                }
            }
        "#,
        generate_all,
    });
}

/// `None` where there is no host.
pub fn now_ms() -> Option<u64> {
    #[cfg(target_arch = "wasm32")]
    {
        let now = bindings::wasi::clocks::wall_clock::now();
        Some(now.seconds * 1_000 + u64::from(now.nanoseconds) / 1_000_000)
    }
    #[cfg(not(target_arch = "wasm32"))]
    None
}

pub fn random_bytes(count: u64) -> Vec<u8> {
    #[cfg(target_arch = "wasm32")]
    return bindings::wasi::random::random::get_random_bytes(count);
    #[cfg(not(target_arch = "wasm32"))]
    (0..count).map(|i| i as u8).collect()
}

pub fn random_u64() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return bindings::wasi::random::random::get_random_u64();
    #[cfg(not(target_arch = "wasm32"))]
    4
}

/// What `println!` would write goes nowhere here: the log is what there is.
pub fn print(cx: &Context, text: &str) {
    cx.log(Level::Info, text);
}
