//! Limits as the policy file has them.

use crate::{
    limits,
    rate::{Bytes, GuestTime, Messages, Quota, Rate, show_size, show_time, size, time},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, time::Duration};

/// A number of sessions or sockets. 0 allows none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = |count| {
            let max = limits::COUNT_MAX;
            de::Error::custom(format!("must be a whole number from 0 to {max}, not {count}"))
        };
        let count = i64::deserialize(deserializer)?;
        let fits = u64::try_from(count).ok().filter(|count| *count <= limits::COUNT_MAX);
        fits.map(Self).ok_or_else(|| wrong(count))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_size(self.0))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "must be a size (64MiB, 10GiB), in bytes or with a unit")]
        enum Written {
            Number(u64),
            Text(String),
        }
        let wrong = |text: &dyn fmt::Debug| {
            let max = Size(limits::COUNT_MAX);
            de::Error::custom(format!(
                "must be a size up to {max}, in bytes or with a unit (64MiB, 10GiB), not {text:?}"
            ))
        };
        let (bytes, shown): (_, Box<dyn fmt::Debug>) = match Written::deserialize(deserializer)? {
            Written::Number(bytes) => (Some(bytes), Box::new(bytes)),
            Written::Text(text) => (size(&text), Box::new(text)),
        };
        let bytes = bytes.filter(|bytes| *bytes <= limits::COUNT_MAX);
        bytes.map(Self).ok_or_else(|| wrong(&*shown))
    }
}

/// How much of its rates may come at once, as a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst(pub Duration);

impl Serialize for Burst {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show_time(self.0))
    }
}

impl<'de> Deserialize<'de> for Burst {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bounds = limits::BURST_MIN..=limits::BURST_MAX;
        let wrong = || {
            let [min, max] = [*bounds.start(), *bounds.end()].map(show_time);
            de::Error::custom(format!(
                "must be a time from {min} to {max} (500ms, 2s), not {text:?}"
            ))
        };
        time(&text).filter(|time| bounds.contains(time)).map(Self).ok_or_else(wrong)
    }
}

/// Of the processor, relative to other services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Weight(pub u32);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let weight = i64::deserialize(deserializer)?;
        let fits = u32::try_from(weight).ok().filter(|w| (1..=limits::WEIGHT_MAX).contains(w));
        let max = limits::WEIGHT_MAX;
        let wrong = || format!("must be a whole number from 1 to {max}, not {weight}");
        fits.map(Self).ok_or_else(|| de::Error::custom(wrong()))
    }
}

/// The limits of a service, `[service.NAME.limits]`: of all of it, of each subject of a token, and of each session.
/// What is not there is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Rate<Messages>>,
    /// Of bodies of messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate<Bytes>>,
    /// The processor time of its handlers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_time: Option<Rate<GuestTime>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Count>,
    /// Its share of a busy processor relative to other services; 100 where nothing is said. No limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectLimits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionLimits>,
}

/// Of each subject, `[service.NAME.limits.subject]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubjectLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Rate<Messages>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate<Bytes>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_time: Option<Rate<GuestTime>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    /// That it has made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Count>,
    /// Of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Count>,
}

/// Of each session, `[service.NAME.limits.session]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Rate<Messages>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate<Bytes>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_time: Option<Rate<GuestTime>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    /// Of its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Count>,
}

/// The rates of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub messages: Option<Quota>,
    pub bytes: Option<Quota>,
    pub guest_time: Option<Quota>,
}

impl Rates {
    fn of(
        messages: Option<Rate<Messages>>,
        bytes: Option<Rate<Bytes>>,
        guest_time: Option<Rate<GuestTime>>,
        burst: Option<Burst>,
    ) -> Self {
        let burst = burst.map_or(limits::BURST_DEFAULT, |burst| burst.0);
        Self {
            messages: messages.map(|rate| Quota::new(rate, burst)),
            bytes: bytes.map(|rate| Quota::new(rate, burst)),
            guest_time: guest_time.map(|rate| Quota::new(rate, burst)),
        }
    }

    pub fn is_none(&self) -> bool {
        self.messages.is_none() && self.bytes.is_none() && self.guest_time.is_none()
    }
}

impl Limits {
    /// What is wrong with it that its keys alone don't show: each names its table.
    pub fn faults(&self) -> Vec<String> {
        let levels = [
            ("", self.rates(), self.burst),
            ("subject", self.subject_rates(), self.subject.as_ref().and_then(|l| l.burst)),
            ("session", self.session_rates(), self.session.as_ref().and_then(|l| l.burst)),
        ];
        let alone = levels.iter().filter(|(_, rates, burst)| burst.is_some() && rates.is_none());
        let fault = |level: &str| {
            let dot = if level.is_empty() { "" } else { "." };
            format!("limits{dot}{level}: burst needs messages, bytes or guest_time beside it")
        };
        alone.map(|(level, ..)| fault(level)).collect()
    }

    pub(crate) fn rates(&self) -> Rates {
        Rates::of(self.messages, self.bytes, self.guest_time, self.burst)
    }

    pub(crate) fn subject_rates(&self) -> Rates {
        let of = |l: &SubjectLimits| Rates::of(l.messages, l.bytes, l.guest_time, l.burst);
        self.subject.as_ref().map(of).unwrap_or_default()
    }

    pub(crate) fn session_rates(&self) -> Rates {
        let of = |l: &SessionLimits| Rates::of(l.messages, l.bytes, l.guest_time, l.burst);
        self.session.as_ref().map(of).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"
messages = "1000/s"
bytes = "10MiB/s"
guest_time = "500ms/s"
burst = "2s"
sessions = 10000
stored = "10GiB"
sockets = 500
weight = 200

[subject]
messages = "50/s"
sessions = 20
stored = "100MiB"
sockets = 5

[session]
messages = "600/m"
stored = "1MiB"
"#;

    /// Without it a policy file that one version wrote might not be read by the next.
    #[test]
    fn all_limits_are_read_as_they_are_written() {
        let limits: Limits = toml::from_str(ALL).unwrap();
        assert_eq!(toml::to_string(&limits).unwrap().trim(), ALL.trim());
        assert!(limits.faults().is_empty());
        assert_eq!(limits.stored, Some(Size(10 << 30)));
        assert_eq!(toml::from_str::<Limits>("stored = 5").unwrap().stored, Some(Size(5)));
        assert_eq!(toml::from_str::<Limits>("").unwrap(), Limits::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let wrong = [
            ("messages = \"fast\"", "1000/s"),
            ("messages = 5", "string"),
            ("bytes = \"10MB/s\"", "10MiB/s"),
            ("guest_time = \"5/s\"", "500ms/s"),
            ("burst = \"1ms\"", "a time from 10ms to 1h"),
            ("stored = \"much\"", "10GiB"),
            ("stored = -1", "must be a size"),
            ("sockets = -1", "from 0 to"),
            ("weight = 0", "from 1 to 10000"),
            ("speed = 1", "unknown field"),
            ("[session]\nsessions = 1", "unknown field"),
            ("[subject]\nweight = 1", "unknown field"),
            ("[subject]\nmessages = \"0/s\"", "1000/s"),
        ];
        for (text, right) in wrong {
            let error = toml::from_str::<Limits>(text).unwrap_err().to_string();
            assert!(error.contains(right), "{text}: {error}");
        }
        let limits: Limits = toml::from_str("[subject]\nburst = \"1s\"").unwrap();
        assert_eq!(
            limits.faults(),
            ["limits.subject: burst needs messages, bytes or guest_time beside it"]
        );
    }
}
