//! What was used in a time, added up by service, by day or by subject: of one node, or of several.

use super::{Account, Amounts, Date, Day, Who};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is added up to one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// All that a service has used.
    #[default]
    Service,
    /// The same, for each day.
    Day,
    /// What each subject has used of a service.
    Subject,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// `None`: all.
    pub service: Option<Box<str>>,
    pub by: By,
    /// The first day and the last.
    pub since: Date,
    pub until: Date,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowOf {
    pub service: Box<str>,
    /// Only by day.
    pub day: Option<Date>,
    /// Only by subject.
    pub who: Option<Who>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub of: RowOf,
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// Rows of an answer, or of several, while they are added up.
#[derive(Debug, Default)]
pub struct Sums(BTreeMap<RowOf, Amounts>);

impl Sums {
    /// Adds what one node has kept.
    pub fn add_days(&mut self, ask: &Ask, days: &[Day]) {
        // What is stored now is no sum of days: but for each day it is that of the last one.
        let last = days.iter().map(|day| day.day).max();
        for day in days {
            let accounts = day.accounts.iter();
            let asked = accounts.filter(|it| ask.service.as_ref().is_none_or(|s| *s == it.service));
            for Account { service, who, amounts } in asked {
                let of = RowOf {
                    service: service.clone(),
                    day: (ask.by == By::Day).then_some(day.day),
                    who: (ask.by == By::Subject).then(|| who.clone()),
                };
                let mut amounts = *amounts;
                if ask.by != By::Day && Some(day.day) != last {
                    amounts.stored_bytes = 0;
                }
                self.0.entry(of).or_default().add(&amounts);
            }
        }
    }

    /// Adds what nodes have answered: the last day that each has, of those that were asked for, and its rows. A node that did not run on
    /// the last of these days had nothing then: what it had before, others have, or it is gone.
    pub fn add_nodes(&mut self, by: By, nodes: Vec<(Option<Date>, Vec<Row>)>) {
        let last = nodes.iter().filter_map(|(day, _)| *day).max();
        for (day, mut rows) in nodes {
            // One of a version from before does not say it.
            if by != By::Day && day.is_some_and(|day| Some(day) < last) {
                rows.iter_mut().for_each(|row| row.amounts.stored_bytes = 0);
            }
            self.add_rows(rows);
        }
    }

    /// Adds what another node has answered.
    pub fn add_rows(&mut self, rows: impl IntoIterator<Item = Row>) {
        for Row { of, amounts } in rows {
            self.0.entry(of).or_default().add(&amounts);
        }
    }

    /// In order, and bounded: of too many subjects those with the fewest messages are added up for their service.
    pub fn rows(mut self) -> Vec<Row> {
        if self.0.len() > limits::USAGE_ROWS_MAX {
            let is_subject = |of: &RowOf| matches!(of.who, Some(Who::Subject(_)));
            let subjects = self.0.iter().filter(|(of, _)| is_subject(of));
            let mut least: Vec<_> = subjects.map(|(of, sum)| (sum.messages, of.clone())).collect();
            least.sort_unstable();
            let over = self.0.len() - limits::USAGE_ROWS_MAX;
            for (_, of) in least.into_iter().take(over) {
                if let Some(sum) = self.0.remove(&of) {
                    let rest = RowOf { who: Some(Who::Other), ..of };
                    self.0.entry(rest).or_default().add(&sum);
                }
            }
        }
        // Without subjects there may be too many services and days: the latest stay.
        if self.0.len() > limits::USAGE_ROWS_MAX {
            let days: BTreeSet<_> = self.0.keys().filter_map(|of| of.day).collect();
            for day in days {
                if self.0.len() <= limits::USAGE_ROWS_MAX {
                    break;
                }
                self.0.retain(|of, _| of.day != Some(day));
            }
        }
        self.0.into_iter().map(|(of, amounts)| Row { of, amounts }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str, accounts: &[(&str, Option<&str>, u64, u64)]) -> Day {
        let account = |(service, subject, messages, stored): &(&str, Option<&str>, u64, u64)| {
            let who = subject.map_or(Who::Nobody, |subject| Who::Subject(subject.into()));
            let (messages, stored_bytes) = (*messages, *stored);
            let amounts = Amounts { messages, stored_bytes, ..Amounts::default() };
            Account { service: (*service).into(), who, amounts }
        };
        Day { day: text.parse().unwrap(), accounts: accounts.iter().map(account).collect() }
    }

    fn ask(by: By, service: Option<&str>) -> Ask {
        Ask { service: service.map(Into::into), by, since: Date::MIN, until: Date::MAX }
    }

    fn shown(rows: &[Row]) -> Vec<String> {
        let row = |row: &Row| {
            let day = row.of.day.map(|day| format!(" {day}")).unwrap_or_default();
            let who = match &row.of.who {
                None => String::new(),
                Some(Who::Subject(name)) => format!(" {name}"),
                Some(who) => format!(" {who:?}"),
            };
            let Amounts { messages, stored_bytes, .. } = row.amounts;
            format!("{}{day}{who} {messages} {stored_bytes}", row.of.service)
        };
        rows.iter().map(row).collect()
    }

    /// A bill would have each day's stored bytes once more, or another's messages.
    #[test]
    fn days_are_added_up_by_what_is_asked() {
        let days = [
            day("2026-11-29", &[("chat", None, 1, 100), ("chat", Some("ann"), 2, 0)]),
            day("2026-11-30", &[("board", None, 3, 7), ("chat", Some("ann"), 4, 0)]),
            day("2026-12-01", &[("chat", None, 5, 50), ("chat", Some("bob"), 6, 0)]),
        ];
        let sum = |by, service| {
            let (mut sums, ask) = (Sums::default(), ask(by, service));
            sums.add_days(&ask, &days);
            sums.rows()
        };
        assert_eq!(shown(&sum(By::Service, None)), ["board 3 0", "chat 18 50"]);
        assert_eq!(
            shown(&sum(By::Day, Some("chat"))),
            ["chat 2026-11-29 3 100", "chat 2026-11-30 4 0", "chat 2026-12-01 11 50"]
        );
        assert_eq!(
            shown(&sum(By::Subject, None)),
            ["board Nobody 3 0", "chat Nobody 6 50", "chat ann 6 0", "chat bob 6 0"]
        );
        // Two nodes: one of them in its own words, the other's as they come over the wire.
        let mut sums = Sums::default();
        sums.add_days(&ask(By::Service, None), &days);
        let wire = serde_json::to_string(&sum(By::Service, None)).unwrap();
        sums.add_rows(serde_json::from_str::<Vec<Row>>(&wire).unwrap());
        assert_eq!(shown(&sums.rows()), ["board 6 0", "chat 36 100"]);
    }

    /// A slot that moved before the last day would be stored twice in a bill: where it was, and where it is.
    #[test]
    fn what_a_node_had_before_the_last_day_is_not_stored_then() {
        let left = day("2026-11-29", &[("chat", Some("ann"), 1, 100)]);
        let taken = [day("2026-11-29", &[]), day("2026-11-30", &[("chat", Some("ann"), 2, 100)])];
        let sum = |by, of: &[&[Day]]| {
            let nodes = of.iter().map(|days| {
                let mut sums = Sums::default();
                sums.add_days(&ask(by, None), days);
                (days.last().map(|day| day.day), sums.rows())
            });
            let mut sums = Sums::default();
            sums.add_nodes(by, nodes.collect());
            shown(&sums.rows())
        };
        let one = std::slice::from_ref(&left);
        assert_eq!(sum(By::Subject, &[one, &taken]), ["chat ann 3 100"]);
        assert_eq!(sum(By::Service, &[&taken, one]), ["chat 3 100"]);
        assert_eq!(sum(By::Service, &[one, &[]]), ["chat 1 100"], "it is the last that there is");
        let by_day = ["chat 2026-11-29 1 100", "chat 2026-11-30 2 100"];
        assert_eq!(sum(By::Day, &[one, &taken]), by_day);
    }

    /// Names come from clients: an answer that has all of them would not fit.
    #[test]
    fn too_many_rows_are_added_up() {
        let names: Vec<_> = (0..2 * limits::USAGE_ROWS_MAX).map(|n| format!("s{n}")).collect();
        let accounts: Vec<_> =
            names.iter().zip(1..).map(|(name, n)| ("chat", Some(&**name), n, 0)).collect();
        let mut sums = Sums::default();
        sums.add_days(&ask(By::Subject, None), &[day("2026-11-30", &accounts)]);
        let rows = sums.rows();
        assert!(rows.len() <= limits::USAGE_ROWS_MAX + 1);
        let all = 2 * limits::USAGE_ROWS_MAX as u64;
        assert_eq!(rows.iter().map(|row| row.amounts.messages).sum::<u64>(), all * (all + 1) / 2);
        assert!(rows.iter().any(|row| row.of.who == Some(Who::Other)));
        assert!(rows.iter().any(|row| row.amounts.messages == all), "those with the most stay");
    }
}
