//! The process's metrics storage: the exporter's registry for counters and gauges, our own fixed
//! buckets for histograms.

use super::histogram::{FixedHistogram, SECONDS};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

/// The type of a histogram's name.
#[derive(Default)]
struct Family {
    help: String,
    /// By their labels, in text form.
    members: BTreeMap<String, Arc<FixedHistogram>>,
}

pub(super) struct Registry {
    plain: PrometheusRecorder,
    histograms: Mutex<BTreeMap<String, Family>>,
    bounds: fn(&str) -> Option<&'static [f64]>,
}

impl Registry {
    /// `bounds` maps a histogram's name to its buckets; others get [`SECONDS`].
    pub fn new(bounds: fn(&str) -> Option<&'static [f64]>) -> Self {
        let plain = PrometheusBuilder::new().build_recorder();
        Self { plain, histograms: Mutex::default(), bounds }
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut out = self.plain.handle().render();
        for (name, family) in &*self.histograms.lock() {
            if family.members.is_empty() {
                continue;
            }
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", family.help);
            for (labels, histogram) in &family.members {
                histogram.render(name, labels, &mut out);
            }
            out.push('\n');
        }
        out
    }
}

/// A label's value, escaped for the text format.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Recorder for Registry {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.plain.describe_counter(key, unit, description);
    }
    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.plain.describe_gauge(key, unit, description);
    }
    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        let mut histograms = self.histograms.lock();
        histograms.entry(key.as_str().into()).or_default().help = description.into_owned();
    }
    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.plain.register_counter(key, metadata)
    }
    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.plain.register_gauge(key, metadata)
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let labels: Vec<String> =
            key.labels().map(|l| format!("{}=\"{}\"", l.key(), escape(l.value()))).collect();
        let mut histograms = self.histograms.lock();
        let family = histograms.entry(key.name().into()).or_default();
        let bounds = (self.bounds)(key.name()).unwrap_or(SECONDS);
        let member = family
            .members
            .entry(labels.join(","))
            .or_insert_with(|| Arc::new(FixedHistogram::new(bounds)));
        Histogram::from_arc(Arc::clone(member))
    }
}
