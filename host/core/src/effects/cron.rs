//! Cron expressions: five fields (minute, hour, day of the month, month, day of the week), in a time
//! zone. What they mean is `cronexpr`'s and the time zone database's to say; what came of it is written
//! down with each timer, so that nothing that was decided depends on them.

use cronexpr::MakeTimestamp;
use jiff::{Timestamp, tz::TimeZone};

/// The first time after `after_ms` that the expression names, in milliseconds since the Unix epoch.
///
/// What is for certain hours is once a day, also where the clock is changed in the night: an hour that comes
/// twice counts the first time, and what is for an hour that is left out is as much later. What is for each
/// hour is for both, and for none.
///
/// # Errors
/// What is wrong with the expression or the zone, for who wrote it; or it names no time at all.
pub(super) fn next(expression: &str, zone: &str, after_ms: u64) -> Result<u64, String> {
    // The parser takes the zone as a sixth field.
    let fields = expression.split_whitespace().count();
    if fields != 5 {
        return Err(format!(
            "a cron expression has five fields (minute, hour, day of the month, month, day of the \
             week); {expression:?} has {fields}"
        ));
    }
    let time_zone = TimeZone::get(zone)
        .map_err(|_| format!("there is no time zone {zone:?}; an example is \"Europe/Berlin\""))?;
    let parse = |zone: &str| {
        let parsed = cronexpr::parse_crontab(&format!("{expression} {zone}"));
        parsed.map_err(|_| format!("{expression:?} is no cron expression"))
    };
    let none = || format!("{expression:?} names no time after now");
    let after = i64::try_from(after_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let after = after.ok_or_else(none)?;
    let each_hour = expression.split_whitespace().nth(1).is_some_and(|it| it == "*");
    let next = match each_hour {
        true => parse(zone)?.find_next(MakeTimestamp(after)).map_err(|_| none())?.timestamp(),
        // By what the clock on the wall shows, as if it were never changed.
        false => {
            let shown = parse("UTC")?;
            let mut from = time_zone.to_datetime(after);
            loop {
                let utc = TimeZone::UTC.to_timestamp(from).map_err(|_| none())?;
                let next = shown.find_next(MakeTimestamp(utc)).map_err(|_| none())?;
                from = next.datetime();
                let next = time_zone.to_timestamp(from).map_err(|_| none())?;
                if next > after {
                    break next;
                }
            }
        }
    };
    u64::try_from(next.as_millisecond()).map_err(|_| none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> u64 {
        let at: Timestamp = text.parse().unwrap();
        at.as_millisecond().try_into().unwrap()
    }

    /// A daily report would come an hour early or late for half of the year, or twice on one night.
    #[test]
    fn days_that_are_longer_or_shorter_have_one_time_each() {
        let next = |after: &str| next("30 2 * * *", "Europe/Berlin", at(after)).unwrap();
        assert_eq!(next("2026-01-15T12:00:00Z"), at("2026-01-16T01:30:00Z"));
        assert_eq!(next("2026-07-15T12:00:00Z"), at("2026-07-16T00:30:00Z"));
        // 2:30 comes twice that night: it names the first.
        assert_eq!(next("2026-10-24T12:00:00Z"), at("2026-10-25T00:30:00Z"));
        assert_eq!(next("2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z"));
        // That night 2:30 is left out.
        assert_eq!(next("2026-03-28T12:00:00Z"), at("2026-03-29T01:30:00Z"));
        let hours = |after: &str| super::next("30 * * * *", "Europe/Berlin", at(after)).unwrap();
        assert_eq!(hours("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"));
    }

    /// Clocks there are put back by half an hour: a search that steps by hours finds the same hour for ever, on
    /// a thread that serves.
    #[test]
    fn half_hours_end_a_search() {
        for expression in ["59 */2 * * *", "59 * * * *", "59 1-23/2 * * *"] {
            let mut at = at("2027-04-03T12:00:00Z");
            for _ in 0..40 {
                let next = next(expression, "Australia/Lord_Howe", at).unwrap();
                assert!(next > at, "{expression}");
                at = next;
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (expression, zone, says) in [
            ("* * * *", "UTC", "five fields"),
            ("* * * * * *", "UTC", "five fields"),
            ("61 * * * *", "UTC", "no cron expression"),
            ("* * * * *", "Mars/Olympus", "no time zone"),
            ("0 0 30 2 *", "UTC", "names no time"),
        ] {
            let error = next(expression, zone, at("2026-01-01T00:00:00Z")).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
