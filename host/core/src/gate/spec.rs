//! What a gate is asked for.

use super::Kind;
use crate::{
    error::{Code, Error},
    limits,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// What stops a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Whatever differs and is not ignored, and whatever was not seen of the migration.
    Strict,
    /// What fails where the version before did not, wants what nobody accepted, or costs too much. What differs
    /// otherwise is shown.
    #[default]
    Report,
    /// There is no gate.
    Off,
}

/// What a gate does, and for how long. From `[services.NAME.gate]`, with what a deploy asks for over it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateSpec {
    pub mode: Mode,
    /// New wants that are accepted.
    pub accept: Vec<Want>,
    /// Sessions whose history is run; `None`: [`limits::GATE_SESSIONS_DEFAULT`].
    pub sessions: Option<u64>,
    /// A part of all sessions instead: more than 0, up to 1.
    pub share: Option<f64>,
    /// The last messages of each that are run on the new version; `None`: [`limits::GATE_MESSAGES_DEFAULT`].
    pub messages: Option<u64>,
    /// What the sample follows from.
    pub seed: u64,
    /// Of each stage; `None`: [`limits::GATE_TIME_DEFAULT`].
    pub time_ms: Option<u64>,
    /// Of each node; `None`: [`limits::GATE_THREADS_DEFAULT`].
    pub threads: Option<usize>,
    /// What may differ.
    pub ignore: Vec<Ignore>,
    /// How many times as much the new version may cost; `None`: [`limits::GATE_COST_RATIO_DEFAULT`].
    pub cost_ratio_max: Option<f64>,
}

/// Something outside of its sessions' state that a version wants, and the one before did not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// Requests to a host; `*`: to any.
    Http(String),
    /// A secret in a request, by name; `*`: any.
    Secret(String),
    /// More memory to begin with.
    Memory,
    /// A function that it imports, as `timers.schedule`, or all of an interface, as `timers`; `*`: any.
    Effect(String),
    /// Another import, by its name; `*`: any.
    Import(String),
}

/// A difference that is allowed: a [`Kind`], alone or with what it is of and a place in it.
///
/// `reply.$.took_ms`, `event.line.$.at`, `event.$.at` (of any event), `state.room/#`, `effect.timer`, `reply`. A place
/// has what is below it too. `[*]` and `.*` are any element and any member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ignore {
    pub kind: Kind,
    /// What it is of: an event's kind, an effect, a key of the state; empty: whatever it is. A `*` in it is any text.
    pub subject: String,
    /// A place in JSON, from `$` on; empty: all of it.
    pub path: String,
}

impl GateSpec {
    /// # Errors
    /// `request-invalid`: what it asks for can't be done.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |why: String| Err(Error::new(Code::RequestInvalid, why));
        let sessions = 1..=limits::AUDIT_SAMPLE_MAX;
        if self.sessions.is_some_and(|given| !sessions.contains(&given)) {
            return wrong(format!("a gate runs 1 to {} sessions", limits::AUDIT_SAMPLE_MAX));
        }
        if self.sessions.is_some() && self.share.is_some() {
            return wrong("a gate runs a number of sessions, or a share of them".into());
        }
        if self.share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return wrong("a share of the sessions is more than 0 and up to 1".into());
        }
        if self.messages == Some(0) {
            return wrong("a gate runs at least one message of a session".into());
        }
        if self.threads.is_some_and(|given| !(1..=limits::REPLAY_THREADS_MAX).contains(&given)) {
            return wrong(format!("a gate has 1 to {} threads", limits::REPLAY_THREADS_MAX));
        }
        let time = self.time();
        if time.is_zero() || time > limits::AUDIT_TIME_MAX {
            return wrong(format!("a stage runs for up to {:?}", limits::AUDIT_TIME_MAX));
        }
        if !(self.cost_ratio() >= 1.0 && self.cost_ratio().is_finite()) {
            return wrong("the cost may rise to 1 times what it was, or more".into());
        }
        if self.accept.len() > limits::GATE_LISTED_MAX
            || self.ignore.len() > limits::GATE_LISTED_MAX
        {
            let most = limits::GATE_LISTED_MAX;
            return wrong(format!("a gate accepts, and ignores, up to {most} things"));
        }
        Ok(())
    }

    pub fn time(&self) -> Duration {
        self.time_ms.map_or(limits::GATE_TIME_DEFAULT, Duration::from_millis)
    }

    pub fn threads(&self) -> usize {
        self.threads.unwrap_or(limits::GATE_THREADS_DEFAULT).clamp(1, limits::REPLAY_THREADS_MAX)
    }

    pub fn messages(&self) -> u64 {
        self.messages.unwrap_or(limits::GATE_MESSAGES_DEFAULT).max(1)
    }

    pub fn cost_ratio(&self) -> f64 {
        self.cost_ratio_max.unwrap_or(limits::GATE_COST_RATIO_DEFAULT)
    }

    /// How many sessions are run, of so many.
    pub fn sessions_of(&self, all: u64) -> u64 {
        let wanted = match self.share {
            #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]
            Some(share) => (all as f64 * share).ceil() as u64,
            None => self.sessions.unwrap_or(limits::GATE_SESSIONS_DEFAULT),
        };
        wanted.clamp(1, limits::AUDIT_SAMPLE_MAX)
    }

    pub fn accepts(&self, want: &Want) -> bool {
        self.accept.iter().any(|accepted| accepted.covers(want))
    }
}

impl Want {
    /// Whether who accepts this accepts the other one.
    pub fn covers(&self, other: &Self) -> bool {
        let all = |one: &str, other: &str| one == "*" || one == other;
        match (self, other) {
            (Self::Http(one), Self::Http(other))
            | (Self::Secret(one), Self::Secret(other))
            | (Self::Import(one), Self::Import(other)) => all(one, other),
            (Self::Effect(one), Self::Effect(other)) => {
                let interface = other.split_once('.').map_or(other.as_str(), |(it, _)| it);
                all(one, other) || one == interface
            }
            (Self::Memory, Self::Memory) => true,
            _ => false,
        }
    }

    /// Whether it changes anything beside its own session. Events do not: the replay shows them.
    pub fn reaches_out(&self) -> bool {
        match self {
            Self::Import(_) => false,
            Self::Effect(function) => !["effects.emit", "session.notify"].contains(&&**function),
            Self::Http(_) | Self::Secret(_) | Self::Memory => true,
        }
    }

    /// For people: what it means.
    pub fn sentence(&self) -> String {
        match self {
            Self::Http(host) => format!("makes requests to {host}"),
            Self::Secret(name) => format!("uses the secret {name}"),
            Self::Memory => "begins with more memory".into(),
            Self::Effect(function) => format!("calls {function}"),
            Self::Import(name) => format!("imports {name}"),
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(host) => write!(f, "http:{host}"),
            Self::Secret(name) => write!(f, "secret:{name}"),
            Self::Memory => f.write_str("memory"),
            Self::Effect(function) => write!(f, "effect:{function}"),
            Self::Import(name) => write!(f, "import:{name}"),
        }
    }
}

impl FromStr for Want {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is nothing that can be accepted: http:HOST, secret:NAME, effect:FUNCTION, \
                 import:NAME and memory are"
            )
        };
        if text == "memory" {
            return Ok(Self::Memory);
        }
        let (what, name) = text.split_once(':').ok_or_else(wrong)?;
        if name.is_empty() || text.len() > limits::GATE_TEXT_BYTES_MAX {
            return Err(wrong());
        }
        let name = name.to_owned();
        Ok(match what {
            "http" => Self::Http(name.to_ascii_lowercase()),
            "secret" => Self::Secret(name),
            "effect" => Self::Effect(name),
            "import" => Self::Import(name),
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for Ignore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        for part in [&self.subject, &self.path] {
            if !part.is_empty() {
                write!(f, ".{part}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Ignore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once('.').unwrap_or((text, ""));
        let kind = kind.parse::<Kind>().ok().filter(|kind| kind.can_be_ignored());
        let Some(kind) = kind else {
            return Err(format!(
                "{text:?} does not begin with what may be ignored: {}",
                Kind::IGNORABLE.map(Kind::as_str).join(", ")
            ));
        };
        if text.len() > limits::GATE_TEXT_BYTES_MAX {
            return Err(format!("{text:?} is too long"));
        }
        let (subject, path) = match rest {
            rest if rest.starts_with('$') => ("", rest),
            rest => match rest.find(".$") {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, ""),
            },
        };
        if !path.is_empty() && super::path::parse(path).is_none() {
            return Err(format!(
                "{path:?} is no place in JSON: $.name, $[3], $[*], $.* and $[\"any name\"] are"
            ));
        }
        Ok(Self { kind, subject: subject.into(), path: path.into() })
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Want);
as_text!(Ignore);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_as_it_is_written() {
        for text in [
            "reply",
            "reply.$.took_ms",
            "event.line.$.at[*].x",
            "state.room/#",
            "state.a.b.$[\"c d\"]",
            "rejection.closed",
        ] {
            let read: Ignore = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
        for text in ["", "trap", "cost.x", "reply.$..a", "replies", "want.http:x", "late"] {
            assert!(text.parse::<Ignore>().is_err(), "{text}");
        }
        for text in ["http:a.example", "secret:KEY", "memory", "effect:timers", "import:x"] {
            assert_eq!(text.parse::<Want>().unwrap().to_string(), text);
        }
        for text in ["", "http", "http:", "memory:3", "disk:x"] {
            assert!(text.parse::<Want>().is_err(), "{text}");
        }
    }

    /// A configuration that an older node half understands would stop less than it says.
    #[test]
    fn an_unknown_key_is_refused_and_what_is_left_out_has_its_default() {
        let read = |text: &str| serde_json::from_str::<GateSpec>(text);
        let spec = read("{\"mode\": \"strict\", \"ignore\": [\"reply.$.at\"]}").unwrap();
        assert_eq!((spec.mode, spec.messages()), (Mode::Strict, limits::GATE_MESSAGES_DEFAULT));
        assert!(read("{\"shadow\": true}").is_err());
        assert!(read("{\"ignore\": [\"trap\"]}").is_err());
        let again = serde_json::to_string(&spec).unwrap();
        assert_eq!(read(&again).unwrap(), spec);
        assert_eq!(GateSpec::default().mode, Mode::Report);
    }

    #[test]
    fn what_can_not_be_done_is_refused() {
        let good = GateSpec::default();
        assert!(good.check().is_ok());
        for bad in [
            GateSpec { sessions: Some(0), ..good.clone() },
            GateSpec { sessions: Some(1), share: Some(0.5), ..good.clone() },
            GateSpec { share: Some(0.0), ..good.clone() },
            GateSpec { share: Some(f64::NAN), ..good.clone() },
            GateSpec { messages: Some(0), ..good.clone() },
            GateSpec { threads: Some(0), ..good.clone() },
            GateSpec { time_ms: Some(0), ..good.clone() },
            GateSpec { cost_ratio_max: Some(0.5), ..good.clone() },
            GateSpec { cost_ratio_max: Some(f64::INFINITY), ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        let share = GateSpec { share: Some(0.1), ..good.clone() };
        assert_eq!((share.sessions_of(1_000), share.sessions_of(3)), (100, 1));
        assert_eq!(good.sessions_of(5), limits::GATE_SESSIONS_DEFAULT);
    }
}
