//! `docs/metrics.md`, from the table.

use super::{COUNTED, LABELLED, scrape, services};
use std::fmt::Write as _;

pub(super) fn metrics_md() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Made from host/core/src/telemetry/metrics.rs. To renew: SLOTD_UPDATE_DOCS=1 cargo test -p slotd-core --lib docs -->\n\n\
         The admin listener answers `GET /metrics` in Prometheus' text format. Metrics belong to \
         the process\nand start at zero with it. Histograms have fixed buckets: times from 1 µs to \
         10 s, bytes from 64 to\n16 MiB, counts from 1 to 4096; of requests that sessions make, \
         times from 1 ms to 10 min.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    let mut seen: Vec<&str> = Vec::new();
    let all = || services::ROWS.iter().chain(COUNTED).chain(LABELLED).chain(scrape::SCRAPED);
    for row in all() {
        if seen.contains(&row.name) {
            continue;
        }
        seen.push(row.name);
        let mut labels: Vec<(&str, Vec<&str>)> = Vec::new();
        for (label, value) in all().filter(|m| m.name == row.name).flat_map(|m| m.labels) {
            match labels.iter_mut().find(|(known, _)| known == label) {
                Some((_, values)) => values.push(value),
                None => labels.push((label, vec![value])),
            }
        }
        let label = |(name, values): &(&str, Vec<&str>)| match values.join(", ").as_str() {
            "…" => format!("`{name}`"),
            values => format!("`{name}`: {}", values.replace('|', ", ")),
        };
        let labels: Vec<String> = labels.iter().map(label).collect();
        let (name, kind, doc) = (row.name, row.kind.to_ascii_lowercase(), row.doc.trim());
        let _ = writeln!(out, "| `{name}` | {kind} | {} | {doc} |", labels.join("; "));
    }
    out.push_str(
        "\n## How many series\n\n\
         The first 50 services have their own series; all others are counted together as \
         `service=\"other\"`, so that\nsums stay right. A removed service loses its series. A \
         kind of failure (`slotd_traps_total`,\n`slotd_service_errors_total`) or of call \
         (`slotd_guest_call_seconds`) that never happened has no series.\n\n\
         `slotd_slot_mailbox_depth` has a series for each slot with waiting messages, \
         `slotd_slot_claims_total` one for\neach slot that this process has claimed more than \
         once. Both are computed when scraped, at no cost per message.\n\n\
         Metrics of a cluster (`slotd_nats_*`, `slotd_log_*`, `slotd_view*`, `slotd_membership_*`, \
         `slotd_discovery_*`,\n`slotd_peer_*`, `slotd_snapshot*`, moves, forwards and claims) do \
         not appear on a single node.\n",
    );
    out
}
