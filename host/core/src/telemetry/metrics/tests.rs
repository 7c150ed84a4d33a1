//! What is counted, and how it is rendered.

use super::*;
use crate::names::ServiceName;
use std::{sync::Arc, time::Duration};

fn line<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(start))
}

#[test]
fn metric_docs_are_current() {
    crate::testing::assert_current("metrics.md", &doc::metrics_md());
}

/// Every metric must show under its name and labels, whether recorded by a handle or a macro.
#[test]
fn what_is_counted_is_rendered() {
    let metrics = metrics();
    metrics.append_seconds.record(3e-6);
    metrics.append_seconds.record(f64::NAN);
    metrics.error(Code::PluginDeadline);
    let service = ServiceName::parse("render-test").unwrap();
    let mut known = services::Known::default();
    let counted = known.of(&service);
    counted.committed(services::Committed { messages: 3, ..Default::default() });
    counted.called(services::Called::Handle, Duration::from_micros(3), 1);
    counted.trapped("deadline");
    counted.rejected();
    metrics::histogram!("slotd_swap_pause_seconds").record(0.5);
    let text = metrics.render();
    for start in [
        "slotd_messages_total{service=\"render-test\"} 3",
        "# HELP slotd_append_seconds Time from passing",
        "# TYPE slotd_append_seconds histogram",
        "slotd_append_seconds_bucket{le=\"0.000005\"} ",
        "slotd_append_seconds_bucket{le=\"+Inf\"} ",
        "# HELP slotd_guest_call_seconds Time of one plugin call",
        "# TYPE slotd_guest_call_seconds histogram",
        "slotd_guest_call_seconds_count{service=\"render-test\",call=\"handle\"} 1",
        "slotd_swap_pause_seconds_sum ",
        "slotd_errors_total{code=\"plugin-deadline\"} ",
        "slotd_traps_total{service=\"render-test\",kind=\"deadline\"} 1",
        "slotd_rejections_total{service=\"render-test\"} 1",
        "slotd_open_sockets{kind=\"sse\"} ",
        "process_resident_memory_bytes ",
        "slotd_build_info{version=\"",
    ] {
        assert!(line(&text, start).is_some(), "no {start:?} in\n{text}");
    }
    assert!(!text.contains("NaN"));
    // Every family once: otherwise Prometheus refuses the whole answer.
    let mut types: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(all, types.len());
}

/// Depths must come from the running node, and disappear with it. Alternating claims would not
/// show in the sum over all slots, nor a counter's increase if it were declared a gauge.
#[test]
fn slots_are_read_at_the_scrape_and_end_with_their_source() {
    let source = scrape::on_scrape(|| scrape::Snapshot {
        mailboxes: vec![(9_001, 7), (9_003, 0)],
        claims: vec![(9_002, 3), (9_004, 1)],
        instances: 2,
        deployed: vec![ServiceName::parse("render-test").unwrap()],
        ..Default::default()
    });
    let depth = "slotd_slot_mailbox_depth{slot=\"9001\"}";
    assert_eq!(line(&metrics().render(), depth), Some("slotd_slot_mailbox_depth{slot=\"9001\"} 7"));
    let text = metrics().render();
    let claims = "slotd_slot_claims_total{slot=\"9002\"}";
    assert_eq!(line(&text, claims), Some("slotd_slot_claims_total{slot=\"9002\"} 3"));
    for nothing in
        ["slotd_slot_claims_total{slot=\"9004\"}", "slotd_slot_mailbox_depth{slot=\"9003\"}"]
    {
        assert_eq!(line(&text, nothing), None, "it says nothing");
    }
    assert_eq!(line(&text, "slotd_nats_"), None, "no node of a cluster is here");
    assert!(line(&text, "# TYPE slotd_slot_claims_total counter").is_some());
    drop(source);
    let text = metrics().render();
    assert_eq!((line(&text, depth), line(&text, claims)), (None, None));
}

/// A histogram that loses records under contention is wrong at the busiest moments.
#[test]
fn histograms_lose_nothing_between_threads() {
    let histogram = Arc::new(super::super::histogram::FixedHistogram::new(COUNT));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let handle = Histogram::from_arc(histogram.clone());
            scope.spawn(move || (0..10_000).for_each(|n| handle.record((n % 5) as f64)));
        }
    });
    let mut text = String::new();
    histogram.render("h", "", &mut text);
    assert_eq!(line(&text, "h_sum"), Some("h_sum 80000"));
    assert_eq!(line(&text, "h_count"), Some("h_count 40000"));
    assert_eq!(line(&text, "h_bucket{le=\"2\"}"), Some("h_bucket{le=\"2\"} 24000"));
}
