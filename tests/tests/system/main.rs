//! Tests of real nodes, each in a process of its own: what the README and the invariants promise,
//! seen from outside. One binary, so that there is one link.
//!
//! They need the built plugins: `cargo xtask test` builds them and runs these. To run one by hand
//! afterwards: `cargo test -p slotd-tests --test system kill`.

mod access;
mod admin;
mod agent;
mod audit;
mod bad_input;
mod boot;
mod canary;
mod captures;
mod cli;
mod clients;
mod cluster_dev;
mod common;
mod costly;
mod demo;
mod dev;
mod docs;
mod examples;
mod gate;
mod hostile;
mod http;
mod http2;
mod http_operating;
mod idle;
mod interface;
mod invariants;
mod issuer;
mod kill;
mod limits;
mod listeners;
mod memory;
mod messages;
mod notify;
mod operators;
mod output;
mod overload;
mod past;
mod positions;
mod replay;
mod reservation;
mod restart;
mod sealed;
mod sends;
mod sends_operating;
mod services;
mod shares;
mod signals;
mod signing;
mod single;
mod soak;
mod sockets;
mod storage;
mod streams;
mod stuck;
mod swap;
mod telemetry;
mod timers;
mod tls;
mod types;
mod unread;
mod upgrade;
mod usage;
