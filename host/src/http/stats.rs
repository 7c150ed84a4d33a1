//! The gateway's metrics. Handles on the hot path are looked up once.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use std::time::Duration;

const REQUESTS: &str = "slotd_http_requests_total";
const SECONDS: &str = "slotd_http_request_seconds";
const OPEN: &str = "slotd_open_sockets";
const BYTES: &str = "slotd_http_bytes_total";

#[derive(Clone)]
pub(super) struct Stats {
    messages_ok: Counter,
    messages_seconds: Histogram,
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    sockets: Gauge,
    streams: Gauge,
    connections: Gauge,
}

/// Counts one open thing for as long as it lives.
pub(super) struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}
impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Stats {
    pub(super) fn new() -> Self {
        use super::messages::ROUTE;
        metrics::describe_counter!(REQUESTS, "HTTP requests answered, by route and status");
        metrics::describe_histogram!(
            SECONDS,
            metrics::Unit::Seconds,
            "Time from a request's head to its answer"
        );
        metrics::describe_gauge!(OPEN, "Open connections, WebSockets and event streams");
        metrics::describe_counter!(BYTES, metrics::Unit::Bytes, "Bytes over all connections");
        Self {
            messages_ok: counter!(REQUESTS, "route" => ROUTE, "status" => "200"),
            messages_seconds: histogram!(SECONDS, "route" => ROUTE),
            bytes_in: counter!(BYTES, "direction" => "in"),
            bytes_out: counter!(BYTES, "direction" => "out"),
            sockets: gauge!(OPEN, "kind" => "websocket"),
            streams: gauge!(OPEN, "kind" => "sse"),
            connections: gauge!(OPEN, "kind" => "http"),
        }
    }
    pub(super) fn message(&self, status: http::StatusCode, took: Duration) {
        if status == http::StatusCode::OK {
            self.messages_ok.increment(1);
            self.messages_seconds.record(took.as_secs_f64());
        } else {
            self.request(super::messages::ROUTE.to_owned(), status, took);
        }
    }
    pub(super) fn request(&self, route: String, status: http::StatusCode, took: Duration) {
        counter!(REQUESTS, "route" => route.clone(), "status" => status.as_str().to_owned())
            .increment(1);
        histogram!(SECONDS, "route" => route).record(took.as_secs_f64());
    }
    pub(super) fn open_socket(&self) -> Open {
        Open::new(&self.sockets)
    }
    pub(super) fn open_stream(&self) -> Open {
        Open::new(&self.streams)
    }
    pub(super) fn open_connection(&self) -> Open {
        Open::new(&self.connections)
    }
}
