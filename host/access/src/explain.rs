//! Why somebody may do something, or may not.

use serde::Serialize;
use std::fmt;

/// Why somebody may do something, or may not. Displayed as one line for the answer and one for each rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub identity: String,
    pub verb: String,
    pub on: String,
    pub allowed: bool,
    /// What decided it.
    pub because: String,
    /// Grants and rules, as they are in the policy. Empty if none had to be looked at.
    pub rules: Vec<Considered>,
}

/// A grant or a rule, and whether it allows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    pub rule: String,
    /// In the policy's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    pub matches: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, verb, on, because, .. } = self;
        let may = if self.allowed { "may" } else { "may not" };
        write!(to, "{identity} {may} {verb} on {on}: {because}")?;
        for Considered { rule, why, .. } in &self.rules {
            match why {
                None => write!(to, "\n  yes  {rule}")?,
                Some(why) => write!(to, "\n  no   {rule}: {why}")?,
            }
        }
        Ok(())
    }
}
