//! `when`: claims that must have a value. One that is within others is named by all on the way to it, in tables or with
//! dots.

use super::{super::table::Table, Builder};
use crate::{claim::Claim, limits};
use std::ops::Range;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A claim, its value, and where that is.
type Wanted = (String, Claim, Range<usize>);

impl Builder<'_> {
    pub(super) fn when(&mut self, table: &mut Table<'_>) -> Vec<Wanted> {
        let Some(value) = table.value("when") else { return Vec::new() };
        let DeValue::Table(claims) = value.get_ref() else {
            let what = "`when` is a table of claims, such as { role = \"staff\" }";
            self.faults.add(Some(value.span()), what);
            return Vec::new();
        };
        let mut when = Vec::new();
        self.claims_of(claims, None, &mut when);
        if when.len() > limits::WHEN_MAX {
            let what = format_args!("`when` has more than {} claims", limits::WHEN_MAX);
            self.faults.add(Some(value.span()), what);
            return Vec::new();
        }
        when
    }

    fn claims_of(&mut self, claims: &DeTable<'_>, within: Option<&str>, when: &mut Vec<Wanted>) {
        for (name, value) in claims.iter() {
            let name = match within {
                None => name.get_ref().to_string(),
                Some(within) => format!("{within}.{}", name.get_ref()),
            };
            // Names are bounded, and so is how deep they go.
            if name.len() > limits::CLAIM_NAME_BYTES_MAX {
                let what = format_args!(
                    "the name of a claim is longer than {} bytes",
                    limits::CLAIM_NAME_BYTES_MAX
                );
                self.faults.add(Some(value.span()), what);
                continue;
            }
            if let DeValue::Table(inner) = value.get_ref() {
                self.claims_of(inner, Some(&name), when);
                continue;
            }
            match wanted(value) {
                Some(claim) => when.push((name, claim, value.span())),
                None => {
                    let what = "a claim of `when` is a text, a number, true or false";
                    self.faults.add(Some(value.span()), what);
                }
            }
        }
    }
}

fn wanted(value: &Spanned<DeValue<'_>>) -> Option<Claim> {
    Some(match value.get_ref() {
        DeValue::String(text) => Claim::Text(text.to_string()),
        DeValue::Boolean(is) => Claim::Boolean(*is),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            Claim::Number(i64::from_str_radix(&digits, number.radix()).ok()?.into())
        }
        DeValue::Float(number) => {
            let number = number.as_str().replace('_', "").parse().ok()?;
            Claim::Number(serde_json::Number::from_f64(number)?)
        }
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}
