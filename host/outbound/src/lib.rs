//! Carries out HTTP requests for slotd: one attempt at a time, within a policy.
//!
//! A handler asks for a request in a message, and what it asks for is durable with that message. Whoever keeps that
//! row calls this crate, which knows nothing of slots, rows or messages:
//!
//! ```text
//!   handler's call ──> Outbound::check        refused now, if it can be known now
//!   row is due     ──> Turns::take            when it is its turn
//!                  ──> Outbound::attempt_in   one attempt: an Outcome
//!                  ──> Retries::next          done, again after a while, or given up
//!   row            <── the outcome, or the time of the next attempt
//! ```
//!
//! # What happens to a request
//!
//! 1. **It is checked** (`request`): sizes, method, headers. The `Idempotency-Key` is the caller's and the same in
//!    each attempt. A request is carried out *at least* once: nobody knows of one whose answer was lost what has
//!    become of it.
//! 2. **A rule has to allow it** (`policy`): scheme, host and port. Without rules nothing is allowed.
//! 3. **Secrets are put in** (`secrets`) where URL and headers have `{{secret:NAME}}`, if a grant lets this secret go
//!    to this host. Where a URL leads is decided before.
//! 4. **It has its turn** ([`Turns`]): so many at once and a second at one target, so many of all, with so much memory. The wait
//!    is bounded, and none of the attempt's time.
//! 5. **The name is looked up, and each address checked** (`resolve`, `address`). What has been checked is connected
//!    to: there is no second look-up that could have another answer. Addresses in URLs are checked as such. An answer
//!    counts only if it comes from such an address.
//! 6. **It is sent** by reqwest (`network`): HTTP/1.1 and 2, TLS with the system's roots. No proxy of the
//!    environment, no cookies, no retries.
//! 7. **Redirects** are followed here (`client`), each from step 2 on. On another origin only headers that tell
//!    nothing go along, none of them with a secret; and a URL that has one is not followed to where the secret may
//!    not go.
//! 8. **The body is read** up to a limit, which holds after decompression, and handed over meanwhile if a stream was
//!    asked for (`stream`, `sse`).
//! 9. **Secrets are taken out** of all that is returned (`redact`).
//!
//! All that goes wrong is a [`Failure`]: a kind, a sentence, and whether another attempt may help. Whether there is
//! one is decided by [`Retries`], purely.
//!
//! # What holds
//!
//! - Without a rule that says `!private` of this very host, no connection is made to an address that is not public:
//!   not by a name, not by a spelling of an address, not by a redirect, not by an answer of DNS that changes.
//! - A secret's value goes only to where it is granted, and is in nothing that is returned, shown or logged. This
//!   crate logs nothing.
//! - Whatever a server does, an attempt ends by its timeout, and has no more in memory than the limits of its rule
//!   set and the room of its turn say. All limits are in [`limits`].
//! - Dropping an attempt's future ends it.
//!
//! # What it does not do
//!
//! zstd is not asked for: it would be a library in C that reads what strangers send, with a window of up to 128 MiB
//! that the client lets nobody bound. Servers that have it have gzip or brotli, too. HTTP/3, cookies, client
//! certificates and proxies are left out until somebody needs them.
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use slotd_outbound::{Network, Next, Options, Outbound, Policy, Request, Retries, Secrets, Source};
//! use std::time::Duration;
//!
//! let secrets = Secrets::open(Source { file: Some("/etc/slotd/secrets".into()), prefix: None })?;
//! let policy = Policy::parse(&["api.example.com"], &["API_KEY>api.example.com"])?;
//! let outbound = Outbound::new(policy, secrets, &Network::system([])?)?;
//! let request = Request {
//!     method: "POST".into(),
//!     url: "https://api.example.com/v1/orders".into(),
//!     headers: vec![("Authorization".into(), "Bearer {{secret:API_KEY}}".into())],
//!     body: "{}".into(),
//!     idempotency_key: "cart-17-3-41".into(),
//!     options: Options::new(Duration::from_secs(30)),
//! };
//! let outcome = outbound.attempt(&request, None).await;
//! match Retries::new(5).next(&outcome, 1, Duration::from_secs(600), 0.3) {
//!     Next::Done | Next::GiveUp(_) => println!("{outcome:?}"),
//!     Next::Again(wait) => println!("again in {wait:?}"),
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![forbid(unsafe_code)]

mod address;
mod client;
mod clock;
mod errors;
mod join;
pub mod limits;
mod network;
mod outcome;
mod policy;
mod redact;
mod request;
mod resolve;
mod retry;
mod secrets;
pub mod sse;
mod stream;
mod turn;

pub use client::{Outbound, Redaction, chunks};
pub use join::{JsonPath, NoPath};
pub use network::{Network, SetupError};
pub use outcome::{Answer, Failure, Kind, Outcome};
pub use policy::{Grant, Limits, Policy, PolicyError, Rule};
pub use request::{Chunk, KEPT_HEADERS, Options, Request, Stream};
pub use resolve::{Resolve, SystemResolver};
pub use retry::{Next, Retries, Why, is_retriable};
pub use secrets::{Secrets, SecretsError, Source};
pub use turn::{Pace, Turn, Turns};
