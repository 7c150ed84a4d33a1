//! Requests to real servers, on loopback: friendly ones and others.

#![allow(clippy::disallowed_methods, reason = "servers of tests are tasks")]

mod hostile;
mod kit;
mod policy;
mod redirects;
mod requests;
mod secrets;
mod streams;
mod tls;
