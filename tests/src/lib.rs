//! The library of slotd's system tests, demo and benchmark: real nodes, typed clients, plugins and
//! conversations.

pub mod account;
pub mod agents;
pub mod api;
pub mod browser;
pub mod chaos;
pub mod clock;
pub mod cluster;
pub mod connections;
pub mod conversations;
pub mod costly;
pub mod disk;
pub mod ending;
pub mod histogram;
pub mod history;
pub mod http;
pub mod load;
pub mod model_server;
pub mod node;
pub mod notice;
pub mod outside;
pub mod page;
pub mod plugins;
pub mod raw_socket;
pub mod requests;
pub mod resp;
pub mod sends;
pub mod slots;
pub mod soak;
pub mod socket;
pub mod sse;
pub mod stuck;
pub mod timers;
