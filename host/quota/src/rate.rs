//! Rates, and the buckets that hold to them (GCRA: a bucket is one time, when it is full again).

use crate::limits;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, marker::PhantomData, time::Duration};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// What is counted, and how it is written.
pub trait Unit {
    /// Completes "must be ...".
    const ALLOWED: &str;
    /// In one second.
    const PER_SECOND_MAX: u64;
    fn parse(text: &str) -> Option<u64>;
    fn show(amount: u64) -> String;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes;
/// Nanoseconds of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestTime;

impl Unit for Messages {
    const ALLOWED: &str = "messages in a time, from 1/h to 10000000/s (1000/s, 100/m, 5000/h)";
    const PER_SECOND_MAX: u64 = limits::MESSAGES_PER_SECOND_MAX;
    fn parse(text: &str) -> Option<u64> {
        number(text)
    }
    fn show(amount: u64) -> String {
        amount.to_string()
    }
}

impl Unit for Bytes {
    const ALLOWED: &str = "a size in a time, from 1/h to 1TiB/s (64KiB/s, 10MiB/s, 1GiB/h)";
    const PER_SECOND_MAX: u64 = limits::BYTES_PER_SECOND_MAX;
    fn parse(text: &str) -> Option<u64> {
        size(text)
    }
    fn show(amount: u64) -> String {
        show_size(amount)
    }
}

impl Unit for GuestTime {
    const ALLOWED: &str = "time of guests in a time, from 1ms/h to 4096s/s (500ms/s, 4s/s, 10m/h)";
    const PER_SECOND_MAX: u64 = limits::GUEST_SECONDS_PER_SECOND_MAX * SECOND_NS;
    fn parse(text: &str) -> Option<u64> {
        time(text).map(|time| time.as_nanos() as u64)
    }
    fn show(amount: u64) -> String {
        show_time(Duration::from_nanos(amount))
    }
}

fn number(text: &str) -> Option<u64> {
    // Not "+5".
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

const SIZES: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// A size as the configuration has it: bytes, or with a unit.
pub(crate) fn size(text: &str) -> Option<u64> {
    let (digits, unit) = SIZES
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1));
    number(digits)?.checked_mul(unit)
}

pub(crate) fn show_size(bytes: u64) -> String {
    match SIZES.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A time as the configuration has it: with its unit.
pub(crate) fn time(text: &str) -> Option<Duration> {
    let (digits, unit) =
        TIMES.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
    Some(Duration::from_millis(number(digits)?.checked_mul(unit)?))
}

pub(crate) fn show_time(time: Duration) -> String {
    let ms = time.as_millis() as u64;
    let whole = TIMES.iter().rev().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
    let (name, unit) = whole.unwrap_or(&TIMES[0]);
    format!("{}{name}", ms / unit)
}

/// So much in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate<U> {
    amount: u64,
    per_ns: u64,
    unit: PhantomData<U>,
}

impl<U: Unit> Rate<U> {
    /// `None`: not as [`Unit::ALLOWED`] says.
    pub fn parse(text: &str) -> Option<Self> {
        let (amount, per) = text.split_once('/')?;
        let seconds: u64 = match per {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return None,
        };
        let amount = U::parse(amount)?;
        let fits = amount >= 1 && amount.div_ceil(seconds) <= U::PER_SECOND_MAX;
        fits.then_some(Self { amount, per_ns: seconds * SECOND_NS, unit: PhantomData })
    }

    /// In one second, of what is counted.
    pub fn per_second(self) -> f64 {
        self.amount as f64 * SECOND_NS as f64 / self.per_ns as f64
    }
}

impl<U: Unit> fmt::Display for Rate<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per_ns / SECOND_NS {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{per}", U::show(self.amount))
    }
}

impl<U: Unit> Serialize for Rate<U> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, U: Unit> Deserialize<'de> for Rate<U> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom(format!("must be {}, not {text:?}", U::ALLOWED));
        Self::parse(&text).ok_or_else(wrong)
    }
}

/// A rate with what it lets through at once, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    amount: u64,
    per_ns: u64,
    burst_ns: u64,
}

/// A bucket: when it is full again. What is drawn from it moves that on; now or in the past, it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket(u64);

impl Quota {
    pub fn new<U: Unit>(rate: Rate<U>, burst: Duration) -> Self {
        Self { amount: rate.amount, per_ns: rate.per_ns, burst_ns: nanos(burst) }
    }

    /// How long it takes until so much more may be drawn.
    fn cost_ns(self, amount: u64) -> u64 {
        let cost = (u128::from(amount) * u128::from(self.per_ns)).div_ceil(self.amount.into());
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// What may be drawn after so long.
    fn in_ns(self, ns: u64) -> u64 {
        let amount = u128::from(ns) * u128::from(self.amount) / u128::from(self.per_ns);
        u64::try_from(amount).unwrap_or(u64::MAX)
    }

    /// Windows are whole seconds in headers.
    pub(crate) fn window_seconds(self) -> u64 {
        self.burst_ns.div_ceil(SECOND_NS).max(1)
    }

    /// What one window lets through, at least one.
    pub(crate) fn per_window(self) -> u64 {
        self.in_ns(self.window_seconds() * SECOND_NS).max(1)
    }
}

impl Bucket {
    /// When so much can be drawn; now or earlier: it can. More than the bucket holds can be drawn when it is full: a
    /// message that is larger than the burst passes, and those behind it wait longer.
    pub fn ready_at(self, quota: Quota, amount: u64) -> u64 {
        let room = quota.burst_ns.saturating_sub(quota.cost_ns(amount));
        self.0.saturating_sub(room)
    }

    pub fn draw(&mut self, quota: Quota, amount: u64, now_ns: u64) {
        self.0 = self.0.max(now_ns).saturating_add(quota.cost_ns(amount));
    }

    /// When it is not overdrawn any more, for what is drawn once it is known.
    pub fn paid_at(self, quota: Quota) -> u64 {
        // Full is earlier by the burst.
        (self.0.saturating_add(1)).saturating_sub(quota.burst_ns)
    }

    /// As [`Bucket::draw`], with a bound for what is overdrawn.
    pub fn overdraw(&mut self, quota: Quota, amount: u64, now_ns: u64) {
        self.draw(quota, amount, now_ns);
        let max =
            now_ns.saturating_add(quota.burst_ns).saturating_add(nanos(limits::GUEST_DEBT_MAX));
        self.0 = self.0.min(max);
    }

    /// Empty at most, with no debt.
    pub fn clamp(&mut self, quota: Quota, now_ns: u64) {
        self.0 = self.0.min(now_ns.saturating_add(quota.burst_ns));
    }

    /// What is left now, of what is counted; and of the whole, in 1/1,024.
    pub fn left(self, quota: Quota, now_ns: u64) -> (u64, u64) {
        let free_ns = quota.burst_ns.saturating_sub(self.full_in(now_ns));
        let part = u128::from(free_ns) * 1_024 / u128::from(quota.burst_ns.max(1));
        (quota.in_ns(free_ns), part as u64)
    }

    /// How long until it is full.
    pub fn full_in(self, now_ns: u64) -> u64 {
        self.0.saturating_sub(now_ns)
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Without it a policy could say one thing and mean another, or a wrong one be taken.
    #[test]
    fn a_rate_is_read_as_it_is_shown_and_nothing_else_is() {
        for text in ["1000/s", "1/h", "100/m"] {
            assert_eq!(Rate::<Messages>::parse(text).unwrap().to_string(), text);
        }
        for text in ["10MiB/s", "1/h", "1TiB/s", "64KiB/m", "1500/s"] {
            assert_eq!(Rate::<Bytes>::parse(text).unwrap().to_string(), text);
        }
        for text in ["500ms/s", "4s/s", "10m/h", "1ms/h"] {
            assert_eq!(Rate::<GuestTime>::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "/s", "0/s", "+1/s", "-1/s", "1", "1/d", "1 /s", "10000001/s", "1e3/s"] {
            assert!(Rate::<Messages>::parse(text).is_none(), "{text}");
        }
        for text in ["1MB/s", "2TiB/s", "99999999999999999999/s", "KiB/s", "99999999999TiB/s"] {
            assert!(Rate::<Bytes>::parse(text).is_none(), "{text}");
        }
        for text in ["500/s", "1us/s", "4097s/s", "1.5s/s"] {
            assert!(Rate::<GuestTime>::parse(text).is_none(), "{text}");
        }
        let error =
            toml::from_str::<std::collections::BTreeMap<String, Rate<Messages>>>("a = \"x\"");
        assert!(error.unwrap_err().to_string().contains("must be messages in a time"));
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_a_full_bucket_and_is_paid_for() {
        let quota = Quota::new(Rate::<Bytes>::parse("1000/s").unwrap(), Duration::from_secs(1));
        let (mut bucket, now) = (Bucket::default(), 5 * SECOND_NS);
        assert!(bucket.ready_at(quota, 10_000) <= now);
        bucket.draw(quota, 10_000, now);
        assert_eq!(bucket.ready_at(quota, 1_000), now + 10 * SECOND_NS);
        assert_eq!(bucket.ready_at(quota, 1), now + 9 * SECOND_NS + SECOND_NS / 1_000);
        assert_eq!(bucket.left(quota, now), (0, 0));
    }

    proptest! {
        /// The bound that a limit is: in any time, no more than its rate and one burst (and one message that is larger than
        /// the burst); and whoever waits as long as it is told is let through.
        #[test]
        fn in_any_time_a_bucket_lets_through_its_rate_and_one_burst(
            amount in 1u64..1_000_000,
            burst_ms in 10u64..10_000,
            steps in prop::collection::vec((0u64..2_000_000_000, 1u64..10_000), 1..200),
        ) {
            let rate = Rate::<Bytes>::parse(&format!("{amount}/s")).unwrap();
            let quota = Quota::new(rate, Duration::from_millis(burst_ms));
            let (mut bucket, mut now, mut taken) = (Bucket::default(), SECOND_NS, Vec::new());
            for (pause, wants) in steps {
                now += pause;
                let at = bucket.ready_at(quota, wants);
                if at > now {
                    prop_assert!(bucket.ready_at(quota, wants) == at, "asking draws nothing");
                    now = at;
                }
                bucket.draw(quota, wants, now);
                taken.push((now, wants));
                let burst = amount as f64 * burst_ms as f64 / 1e3;
                let mut sum = 0;
                for (from, wanted) in taken.iter().rev() {
                    sum += wanted;
                    let largest = taken.iter().map(|(_, w)| *w).max().unwrap() as f64;
                    let may = (now - from) as f64 * amount as f64 / 1e9 + burst.max(largest);
                    prop_assert!(sum as f64 <= may + 1.0, "{sum} in {} ns, {may} may be", now - from);
                }
            }
        }
    }
}
