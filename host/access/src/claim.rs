//! What an issuer says of somebody besides the name.

use crate::limits;
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

/// A claim's value. Others (objects, null, lists of other things) are as if they were not there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Claim {
    Text(String),
    Number(Number),
    Boolean(bool),
    List(Vec<String>),
}

pub(crate) type Claims = BTreeMap<String, Claim>;

impl Claim {
    pub(crate) fn of(value: Value) -> Option<Self> {
        Some(match value {
            Value::String(text) => Self::Text(text),
            Value::Number(number) => Self::Number(number),
            Value::Bool(is) => Self::Boolean(is),
            Value::Array(values) => {
                let text = |value| match value {
                    Value::String(text) => Some(text),
                    _ => None,
                };
                Self::List(values.into_iter().map(text).collect::<Option<_>>()?)
            }
            Value::Null | Value::Object(_) => return None,
        })
    }

    /// As [`Claim::of`] reads it.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => number.clone().into(),
            Self::Boolean(is) => (*is).into(),
            Self::List(texts) => texts.as_slice().into(),
        }
    }

    /// As handlers see it: a list is joined by commas.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Boolean(is) => is.to_string(),
            Self::List(texts) => texts.join(","),
        }
    }

    /// Whether it is this value, or a list that has it.
    pub(crate) fn is(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::List(texts), Self::Text(wanted)) => texts.contains(wanted),
            (Self::Number(is), Self::Number(wanted)) => {
                is == wanted
                    || (is.as_f64().is_some()
                        && is.as_f64() == wanted.as_f64()
                        && !both_whole(is, wanted))
            }
            (is, wanted) => is == wanted,
        }
    }
}

/// Whole numbers are compared exactly: as floats, large ones that differ are the same.
fn both_whole(one: &Number, other: &Number) -> bool {
    !one.is_f64() && !other.is_f64()
}

/// What is wrong with claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimsError {
    #[error("more than {} claims", limits::CLAIMS_MAX)]
    TooMany,
    #[error("claims of more than {} bytes", limits::CLAIMS_BYTES_MAX)]
    TooLarge,
    #[error(
        "the name of a claim is empty, longer than {} bytes, or `sub`",
        limits::CLAIM_NAME_BYTES_MAX
    )]
    Name,
    #[error("a claim is not text, a number, true or false, or a list of texts")]
    Value,
}

/// Within the bounds of an identity.
pub(crate) fn check(claims: &Claims) -> Result<(), ClaimsError> {
    if claims.len() > limits::CLAIMS_MAX {
        return Err(ClaimsError::TooMany);
    }
    let bytes: usize = claims.iter().map(|(name, claim)| name.len() + claim.text().len()).sum();
    if bytes > limits::CLAIMS_BYTES_MAX {
        return Err(ClaimsError::TooLarge);
    }
    Ok(())
}

/// Claims that somebody gives: each has to be one.
pub(crate) fn given(claims: &Map<String, Value>) -> Result<Claims, ClaimsError> {
    if claims.len() > limits::CLAIMS_MAX {
        return Err(ClaimsError::TooMany);
    }
    let claim = |(name, value): (&String, &Value)| {
        if !is_name(name) {
            return Err(ClaimsError::Name);
        }
        Ok((name.clone(), Claim::of(value.clone()).ok_or(ClaimsError::Value)?))
    };
    let claims = claims.iter().map(claim).collect::<Result<Claims, _>>()?;
    check(&claims)?;
    Ok(claims)
}

pub(crate) fn is_name(name: &str) -> bool {
    (1..=limits::CLAIM_NAME_BYTES_MAX).contains(&name.len())
        && name != "sub"
        && !name.chars().any(|character| character.is_control() || "{}".contains(character))
}
