//! Membership over a network that is made up (virtual time, any fault), and over real sockets.
#![allow(clippy::unwrap_used)]

mod ended;
mod faults;
mod levels;
mod names;
mod real;
mod refused;
mod sim;
mod views;
