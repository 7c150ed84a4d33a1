//! The arguments of canaries.

use crate::{
    config::{Kind, Value},
    limits,
    service::canary::{ALL, STEPS_DEFAULT},
};
use clap::Args;
use std::time::Duration;

/// A version that is tried in some of the slots first.
#[derive(Debug, Args)]
pub struct CanaryArgs {
    /// Run it in some of the service's slots first, and in more as long as it does no worse than the version in the others
    ///
    /// STEPS are shares of the slots in percent, as `1,10,50`; all of them are the last step. After each there is a
    /// pause and a verdict. If it is bad, the version before runs in all slots again, by itself. The command returns when the
    /// first slots have switched: what happens then is shown by `slotd swap status SERVICE`.
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "", value_parser = steps)]
    pub canary: Option<Steps>,
    /// How long a step of the canary takes at least [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = pause, requires = "canary")]
    pub pause: Option<Duration>,
    /// How many messages and queries it has to have handled in a step of the canary [default: 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(limits::CANARY_MESSAGES_MIN..=limits::CANARY_MESSAGES_MAX), requires = "canary")]
    pub canary_messages: Option<u64>,
}

/// In thousandths of the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps(pub Vec<u16>);

/// What becomes of a canary.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct CanaryChangeArgs {
    /// Make the canary's version the service's, in all slots
    #[arg(long)]
    pub promote: bool,
    /// Keep the canary at its step; it still goes back by itself when it does badly
    #[arg(long)]
    pub hold: bool,
    /// Let a canary that is held go on, with the whole pause of its step
    #[arg(long)]
    pub resume: bool,
    /// Run the version before the canary in all slots again
    #[arg(long)]
    pub abort: bool,
}

impl CanaryChangeArgs {
    /// As the API calls it.
    pub fn named(&self) -> Option<&'static str> {
        let all = [
            (self.promote, "promote"),
            (self.hold, "hold"),
            (self.resume, "resume"),
            (self.abort, "abort"),
        ];
        all.into_iter().find_map(|(set, name)| set.then_some(name))
    }
}

fn steps(raw: &str) -> Result<Steps, String> {
    if raw.is_empty() {
        return Ok(Steps(STEPS_DEFAULT.into()));
    }
    let one = |part: &str| {
        let part = part.trim().trim_end_matches('%').trim_end();
        let permille = part.parse::<f64>().ok().map(|percent| (percent * 10.0).round());
        let permille = permille.filter(|it| (1.0..=f64::from(ALL)).contains(it));
        permille.map(|it| it as u16).ok_or_else(|| {
            format!("{part:?} is no share of the slots in percent, from 0.1 to 100, as in 1,10,50")
        })
    };
    raw.split(',').map(one).collect::<Result<Vec<_>, _>>().map(Steps)
}

fn pause(raw: &str) -> Result<Duration, String> {
    let kind = Kind::Duration { min: Duration::from_secs(1), max: limits::CANARY_PAUSE_MAX };
    match kind.parse(raw) {
        Some(Value::Duration(time)) => Ok(time),
        _ => Err(format!("it must be {}", kind.allowed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenth of what was asked for would be tried, or ten times as much.
    #[test]
    fn steps_are_percent() {
        for (raw, expected) in [
            ("", Some(vec![10, 100, 500, 1000])),
            ("1,10,50", Some(vec![10, 100, 500])),
            ("0.5%, 5 %,100%", Some(vec![5, 50, 1000])),
            ("0", None),
            ("101", None),
            ("ten", None),
            ("1,,2", None),
            ("NaN", None),
        ] {
            assert_eq!(steps(raw).ok().map(|steps| steps.0), expected, "{raw:?}");
        }
    }
}
