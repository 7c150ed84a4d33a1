//! `grafana/slotd.json`.

use super::*;

/// Metrics of docs/metrics.md, which a test holds against the code: kind and labels.
fn metrics() -> anyhow::Result<BTreeMap<String, (String, BTreeSet<String>)>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let mut metrics = BTreeMap::new();
    for line in fs::read_to_string(file)?.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(name) = cells.get(1).and_then(|c| c.strip_prefix('`')?.strip_suffix('`')) else {
            continue;
        };
        let labels = cells[3].split(';').filter_map(|label| label.split('`').nth(1));
        let labels = labels.map(ToOwned::to_owned).collect();
        metrics.insert(name.to_owned(), (cells[2].to_owned(), labels));
    }
    ensure!(metrics.len() > 40, "only {} metrics", metrics.len());
    Ok(metrics)
}

/// Labels that an expression selects or groups by.
fn labels(expression: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let name = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    for part in expression.split('{').skip(1) {
        let matchers = part.split('}').next().unwrap_or_default();
        // No value has a comma or a quote.
        labels.extend(matchers.split(", ").map(name));
    }
    for part in expression.split(" by (").skip(1) {
        labels.extend(part.split(')').next().unwrap_or_default().split(", ").map(name));
    }
    labels
}

/// Without it, a panel could stay empty for ever: of a metric or a label that does not exist, or of
/// a histogram that is not asked as one.
#[test]
fn panels_show_metrics_that_exist() {
    let checked = || -> anyhow::Result<()> {
        let metrics = metrics()?;
        let dashboard: Value = serde_json::from_str(&read("grafana/slotd.json")?)?;
        let (mut ids, mut shown) = (BTreeSet::new(), BTreeSet::new());
        let mut taken = BTreeSet::new();
        for panel in list(&dashboard, "/panels")? {
            let title = text(panel, "/title")?;
            ensure!(ids.insert(at(panel, "/id")?.as_u64()), "{title}: the id is another's");
            let place =
                |name: &str| at(panel, &format!("/gridPos/{name}"))?.as_u64().context("no number");
            for (x, y) in (place("x")?..place("x")? + place("w")?)
                .flat_map(|x| (0..place("h").unwrap_or(0)).map(move |y| (x, y)))
            {
                ensure!(x < 24 && taken.insert((x, place("y")? + y)), "{title} is over another");
            }
            if text(panel, "/type")? == "row" {
                continue;
            }
            for target in list(panel, "/targets")? {
                let expression = text(target, "/expr")?;
                let opened = expression.matches(['(', '{', '[']).count();
                ensure!(opened == expression.matches([')', '}', ']']).count(), "{expression}");
                let names = words(expression, "slotd_").chain(words(expression, "process_"));
                for name in names {
                    let part = name.strip_suffix("_bucket").or(name.strip_suffix("_sum"));
                    let base = part.unwrap_or(name);
                    let (kind, own) =
                        metrics.get(base).with_context(|| format!("{title}: no metric {name}"))?;
                    let as_histogram = base != name;
                    ensure!(as_histogram == (kind == "histogram"), "{title}: {name} is a {kind}");
                    let counted = ["rate(", "increase("].iter().any(|f| expression.contains(f));
                    let sum_of_all = expression.starts_with("sum(slotd_");
                    ensure!(kind != "counter" || counted || sum_of_all, "{title}: {expression}");
                    ensure!(kind != "gauge" || !counted, "{title}: {expression}");
                    for label in labels(expression) {
                        // Prometheus adds the first two.
                        let common = ["job", "instance", "le"].contains(&&*label);
                        ensure!(common || own.contains(&label), "{title}: {name} has no {label}");
                    }
                    shown.insert(base.to_owned());
                }
            }
        }
        for needed in [
            "slotd_view_members",
            "slotd_slots_owned",
            "slotd_moves_total",
            "slotd_handoff_pause_seconds",
            "slotd_forwards_total",
            "slotd_fences_total",
            "slotd_claims_total",
            "slotd_slot_claims_total",
            "slotd_log_append_seconds",
            "slotd_messages_total",
            "slotd_errors_total",
            "slotd_service_errors_total",
            "slotd_peer_links_missing",
            "slotd_guest_call_seconds",
        ] {
            ensure!(shown.contains(needed), "{needed} is not shown");
        }
        Ok(())
    };
    if let Err(error) = checked() {
        panic!("{error:#}");
    }
}
