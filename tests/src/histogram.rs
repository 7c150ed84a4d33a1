//! A histogram of durations: logarithmic buckets, each at most 1/64 of its value wide.

use std::time::Duration;

/// Sub-buckets per power of two, as a power of two.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
/// Buckets for every `u64`: one linear group, then one group per further power of two.
const BUCKETS: usize = SUB * (64 - SUB_BITS as usize + 1);

/// Counts durations with a resolution of about 1.6 %; 30 KiB, whatever is recorded.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to += from;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The value that the share `q` (0 to 1) of all recorded values does not exceed; zero if there
    /// is none.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(highest(index).min(self.max_ns));
            }
        }
        Duration::ZERO
    }
}

fn bucket(ns: u64) -> usize {
    let exponent = 63 - (ns | 1).leading_zeros();
    if exponent < SUB_BITS {
        return ns as usize;
    }
    let shift = exponent - SUB_BITS;
    let within = (ns >> shift) as usize - SUB;
    SUB * (shift as usize + 1) + within
}

/// The largest value that falls into a bucket.
fn highest(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let shift = (index / SUB - 1) as u32;
    let lowest = ((SUB + index % SUB) as u64) << shift;
    lowest + ((1_u64 << shift) - 1)
}

/// A short duration as text, from microseconds: most slots are idle when they switch, and pause for
/// less than one.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 1.0 => "under 1 µs".into(),
        us if us < 1e3 => format!("{us:.0} µs"),
        us => format!("{:.1} ms", us / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If a bucket's bounds were wrong, every latency that the benchmark prints would be.
    #[test]
    fn each_value_falls_into_a_bucket_that_holds_it_and_is_close() {
        let values = (0..64).flat_map(|e| [(1_u64 << e) - 1, 1 << e, (1 << e) + (1 << e) / 3]);
        for value in values.chain([u64::MAX]) {
            let top = highest(bucket(value));
            assert!(top >= value && top - value <= value / 64, "{value} is reported as {top}");
        }
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut all = Histogram::default();
        (1..=1000).for_each(|us| all.record(Duration::from_micros(us)));
        let near = |q: f64, us: u64| {
            let got = all.quantile(q).as_nanos() as f64 / 1000.0;
            assert!((got / us as f64 - 1.0).abs() < 0.02, "{q}: {got} µs");
        };
        near(0.5, 500);
        near(0.99, 990);
        near(1.0, 1000);
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }

    /// "0 µs" looks as if nothing had been measured.
    #[test]
    fn no_time_is_shown_as_none() {
        assert_eq!(
            [0.0, 0.4, 7.6, 1_540.0].map(micros),
            ["under 1 µs", "under 1 µs", "8 µs", "1.5 ms"]
        );
    }
}
