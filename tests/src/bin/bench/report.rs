//! Formatting of figures.

use serde::Serialize;
use slotd_tests::load::Outcome;

/// Of the rounds.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// A line of a part's summary; `reach` is the target of the figure, if any.
pub fn row(name: &str, value: String, reach: &str) {
    let reach = if reach.is_empty() { String::new() } else { format!("   reach: {reach}") };
    println!("  {name:<32} {value:<40}{reach}");
}

impl Spread {
    /// Of a figure of each outcome.
    pub fn each(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> Self {
        Self::of(outcomes.iter().map(figure).collect())
    }

    /// Of the ratios within each round.
    pub fn over(these: &[Outcome], those: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> Self {
        Self::of(these.iter().zip(those).map(|(a, b)| figure(a) / figure(b)).collect())
    }

    /// In another unit.
    pub fn scaled(self, by: f64) -> Self {
        Self { median: self.median * by, min: self.min * by, max: self.max * by }
    }

    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (at(middle.wrapping_sub(1)) + at(middle)) / 2.0
        } else {
            at(middle)
        };
        Self { median, min: at(0), max: at(values.len().wrapping_sub(1)) }
    }

    pub fn show(self) -> String {
        format!("median {:.2} ({:.2} to {:.2})", self.median, self.min, self.max)
    }

    pub fn show_as(self, unit: &str) -> String {
        let digits = if self.max < 10.0 { 3 } else { 0 };
        let Self { median, min, max } = self;
        format!("median {median:.digits$} {unit} ({min:.digits$} to {max:.digits$})")
    }
}
