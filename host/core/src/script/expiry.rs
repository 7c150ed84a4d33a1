//! When a session expires, as a script says it.

use super::{compare::Observed, duration_of};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// When the session is to expire, after the call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    Never,
    /// In milliseconds since the Unix epoch.
    At(u64),
    /// So many milliseconds after the call's time.
    After(u64),
}

impl Expected {
    /// `null` that is written is a value.
    pub fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let found = match &value {
            Value::Null => Some(Self::Never),
            Value::Number(number) => number.as_u64().map(Self::At),
            Value::String(text) => Some(Self::After(duration_of(text).map_err(D::Error::custom)?)),
            _ => None,
        };
        found.map(Some).ok_or_else(|| {
            D::Error::custom(format!(
                "{value} is no time at which a session `expires`: a duration after the call, as \
                 \"10m\", milliseconds since the Unix epoch, or null"
            ))
        })
    }

    pub fn compare(self, got: &Observed, out: &mut Vec<String>) {
        let difference = match (self, got.expires_ms) {
            (Self::Never, None) => return,
            (Self::Never, Some(at_ms)) => format!("expected none, got {at_ms}"),
            (Self::At(expected), None) => format!("expected {expected}, got none"),
            (Self::After(expected), None) => {
                format!("expected {expected} ms after the call, got none")
            }
            (Self::At(expected), Some(at_ms)) if expected == at_ms => return,
            (Self::At(expected), Some(at_ms)) => format!("expected {expected}, got {at_ms}"),
            (Self::After(expected), Some(at_ms)) => {
                let after = i128::from(at_ms) - i128::from(got.time_ms);
                if i128::from(expected) == after {
                    return;
                }
                format!("expected {expected} ms after the call, got {after} ms")
            }
        };
        out.push(format!("expires: {difference}"));
    }
}
