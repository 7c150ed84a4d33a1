//! Whether a canary does worse than the version before.
//!
//! For each kind of fault: Fisher's exact test, one-sided, of its share among the canary's messages against that among
//! the other version's, of the same minutes. A difference counts if it is improbable by chance ([`alpha_at`]), large enough to
//! be of interest ([`limits::CANARY_RATE_RATIO`]), and of several sessions ([`limits::CANARY_SESSIONS_MIN`]): one session that
//! tries again and again is one fault. Sessions that were not taken over have nothing to be compared with: a binomial
//! test against a share that is allowed.
//!
//! Time and memory by their ratio: the lower end of a confidence interval of the canary's 99th percentile (by order
//! statistics, which suppose nothing of the distribution) against the upper end of the other's.

use super::counts::{Counts, Fault};
use crate::limits;
use serde::{Deserialize, Serialize};

/// What was seen of a version, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Messages and queries.
    pub messages: u64,
    /// Sessions that it was to take over.
    pub migrations: u64,
    pub traps: u64,
    pub deadlines: u64,
    pub rejections: u64,
    pub limits: u64,
    /// Sessions that it has not taken over.
    pub pins: u64,
    /// The 99th percentile of the time of a call, in microseconds; and the interval that it is in.
    pub p99_us: u64,
    pub p99_low_us: u64,
    /// `None`: there were too few calls to say.
    pub p99_high_us: Option<u64>,
    /// Bytes of its largest instance.
    pub memory: u64,
}

impl Seen {
    pub fn count(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Trap => self.traps,
            Fault::Deadline => self.deadlines,
            Fault::Rejection => self.rejections,
            Fault::Limit => self.limits,
            Fault::Pin => self.pins,
        }
    }
}

/// What is bad about a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This goes wrong more often.
    More(Fault),
    Time,
    Memory,
}

impl Reason {
    /// In words.
    pub fn of(self, before: &Seen, canary: &Seen) -> String {
        match self {
            Reason::More(Fault::Pin) => format!(
                "{} of {} sessions were not taken over",
                canary.pins,
                canary.migrations.max(canary.pins)
            ),
            Reason::More(fault) => format!(
                "{}: {} of {} messages, against {} of {} of the version before",
                fault.as_str(),
                canary.count(fault),
                canary.messages,
                before.count(fault),
                before.messages
            ),
            Reason::Time => format!(
                "p99 of a call: {} µs, against {} µs of the version before",
                canary.p99_us, before.p99_us
            ),
            Reason::Memory => format!(
                "memory of an instance: {} bytes, against {} of the version before",
                canary.memory, before.memory
            ),
        }
    }
}

/// What a look at the counts shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub bad: Vec<Reason>,
    /// Would be bad, but is of too few sessions to be the version's.
    pub suspect: Vec<Reason>,
}

/// The tests that a look makes: the chance of a false alarm is divided between them.
const TESTS: f64 = 6.0;
/// Of the messages at the first look.
const FIRST_LOOK: u64 = 16;

/// The look that is due at so many messages of the canary: at 16 and at every doubling. Looking at each message would find
/// what is improbable by looking often enough.
pub fn look_at(messages: u64) -> Option<u32> {
    (messages / FIRST_LOOK).checked_ilog2()
}

/// The chance of a false alarm that a test may take at a look: `1/((n+1)(n+2))` sums up to 1 over all looks.
pub fn alpha_at(look: u32) -> f64 {
    let n = f64::from(look);
    limits::CANARY_ALPHA / TESTS / ((n + 1.0) * (n + 2.0))
}

/// Compares a canary with what was seen of the version before.
pub fn look(before: &Seen, canary: &Counts, alpha: f64) -> Found {
    let seen = canary.seen();
    let mut found = Found::default();
    for fault in Fault::ALL {
        let bad = match fault {
            Fault::Pin => is_above(
                seen.pins,
                seen.migrations.max(seen.pins),
                limits::CANARY_PINS_SHARE,
                alpha,
            ),
            fault => is_worse(
                (before.count(fault), before.messages),
                (seen.count(fault), seen.messages),
                alpha,
            ),
        };
        if bad {
            let sessions = canary.faults.get(&fault).map_or(0, |faults| faults.sessions());
            match sessions < limits::CANARY_SESSIONS_MIN {
                true => found.suspect.push(Reason::More(fault)),
                false => found.bad.push(Reason::More(fault)),
            }
        }
    }
    let floor = limits::CANARY_TIME_FLOOR.as_micros() as u64;
    if let Some(high) = before.p99_high_us
        && seen.messages >= limits::CANARY_TIME_MESSAGES_MIN
        && seen.p99_low_us > floor
        && seen.p99_low_us as f64 > limits::CANARY_COST_RATIO * high as f64
    {
        found.bad.push(Reason::Time);
    }
    if before.memory > 0
        && seen.memory > limits::CANARY_MEMORY_FLOOR
        && seen.memory as f64 > limits::CANARY_COST_RATIO * before.memory as f64
    {
        found.bad.push(Reason::Memory);
    }
    found
}

/// Whether `canary`'s share is above `before`'s, each as (how many, of how many).
fn is_worse(before: (u64, u64), canary: (u64, u64), alpha: f64) -> bool {
    let (k1, n1) = (before.0.min(before.1), before.1);
    let (k2, n2) = (canary.0.min(canary.1), canary.1);
    if k2 == 0 || n1 == 0 || n2 == 0 {
        return false;
    }
    let (own, other) = (k2 as f64 / n2 as f64, k1 as f64 / n1 as f64);
    own >= limits::CANARY_RATE_RATIO * other && fisher(k1, n1, k2, n2) <= alpha
}

/// The chance of `k2` or more among the `n2`, if the `k1 + k2` were spread over the `n1 + n2` at random.
pub fn fisher(k1: u64, n1: u64, k2: u64, n2: u64) -> f64 {
    let (k, n) = ((k1 + k2) as f64, (n1 + n2) as f64);
    let (drawn, most) = (n2 as f64, k2.saturating_add(k1).min(n2));
    let x = k2 as f64;
    let first = ln_choose(k, x) + ln_choose(n - k, drawn - x) - ln_choose(n, drawn);
    // Each term from the one before.
    tail(first, k2, most, |i| {
        let i = i as f64;
        (k - i) * (drawn - i) / ((i + 1.0) * (n - k - drawn + i + 1.0))
    })
}

/// Whether `k` of `n` is more than a share `p` explains.
fn is_above(k: u64, n: u64, p: f64, alpha: f64) -> bool {
    k > 0 && k as f64 > p * n as f64 && binomial(k, n, p) <= alpha
}

/// The chance of `k` or more of `n`, each with the chance `p`.
pub fn binomial(k: u64, n: u64, p: f64) -> f64 {
    let (all, x) = (n as f64, k as f64);
    let first = ln_choose(all, x) + x * p.ln() + (all - x) * (1.0 - p).ln();
    tail(first, k, n, |i| {
        let i = i as f64;
        (all - i) / (i + 1.0) * p / (1.0 - p)
    })
}

/// The sum of the terms from `from` to `to`, of which the first is given by its logarithm, and each next one by its ratio
/// to the one before. They fall from there on, faster and faster.
fn tail(ln_first: f64, from: u64, to: u64, ratio: impl Fn(u64) -> f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for i in from..to {
        let ratio = ratio(i);
        term *= ratio;
        sum += term;
        if ratio < 1.0 && term < sum * 1e-9 {
            break;
        }
    }
    (ln_first + f64::ln(sum)).exp().min(1.0)
}

fn ln_choose(n: f64, k: f64) -> f64 {
    libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0)
}

/// Ranks, from 1, of values that are below a quantile, about at it, and above, of so many sorted values: the first and the
/// last with a chance of error below one in a thousand. `None`: there are too few values to say.
pub fn ranks(total: u64, quantile: f64) -> [Option<u64>; 3] {
    /// Of the normal distribution, at 2.3e-4.
    const Z: f64 = 3.5;
    let n = total as f64;
    let (at, wide) = (n * quantile, Z * (n * quantile * (1.0 - quantile)).sqrt());
    let rank = |at: f64| (at >= 1.0 && at <= n).then_some(at as u64);
    [rank((at - wide).floor()), rank(at.ceil()), rank((at + wide).ceil() + 1.0)]
}
