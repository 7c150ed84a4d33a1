//! `slotd usage`.

use super::{
    args::{Usage, UsageBy},
    client::query,
    exit::CliError,
    output::{self, Table, bytes, list, number, text},
};
use serde_json::Value;

pub async fn usage(args: Usage, json: bool) -> Result<(), CliError> {
    let by = match args.by {
        UsageBy::Service => "service",
        UsageBy::Day => "day",
        UsageBy::Subject => "subject",
    };
    let parameters = [
        ("service", args.service),
        ("by", Some(by.into())),
        ("since", args.since),
        ("until", args.until),
    ];
    let client = args.admin.client()?;
    let report = client.get(&format!("/admin/v1/usage{}", query(&parameters))).await?.json()?;
    if json {
        return output::line(&report.to_string());
    }
    output::print(&shown(&report, args.by))?;
    for node in list(&report, "silent") {
        let why = output::harmless(&text(node, "why"), false);
        output::complain(&format!(
            "without {}: {why}",
            output::harmless(&text(node, "node"), false)
        ));
    }
    Ok(())
}

fn shown(report: &Value, by: UsageBy) -> String {
    let mut headings = vec!["SERVICE"];
    headings.extend(match by {
        UsageBy::Service => None,
        UsageBy::Day => Some("DAY"),
        UsageBy::Subject => Some("SUBJECT"),
    });
    headings.extend([
        ">MESSAGES",
        ">REFUSED",
        ">GUEST TIME",
        ">IN",
        ">SENT",
        ">STORED",
        ">GIB HOURS",
    ]);
    let mut table = Table::new(&headings);
    for row in list(report, "rows") {
        let mut cells = vec![text(row, "service")];
        cells.extend(match by {
            UsageBy::Service => None,
            UsageBy::Day => Some(text(row, "day")),
            UsageBy::Subject if row["others"] == true => Some("(others)".into()),
            UsageBy::Subject => Some(text(row, "subject")),
        });
        cells.extend([
            text(row, "messages"),
            text(row, "refused"),
            output::micros(number(row, "guest_time_ns") / 1e3),
            bytes(number(row, "bytes_in")),
            bytes(number(row, "bytes_sent")),
            bytes(number(row, "stored_bytes")),
            format!("{:.2}", number(row, "stored_byte_seconds") / 3_600.0 / 1024_f64.powi(3)),
        ]);
        table.row(cells);
    }
    let mut out = table.render();
    let stored = list(report, "stored");
    if !stored.is_empty() {
        let mut table = Table::new(&["STORED NOW", ">SESSIONS", ">BYTES"]);
        for service in stored {
            table.row([
                text(service, "service"),
                text(service, "sessions"),
                bytes(number(service, "bytes")),
            ]);
        }
        out.push('\n');
        out.push_str(&table.render());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads it must see whose line it is.
    #[test]
    fn a_line_says_whose_it_is() {
        let report = serde_json::json!({
            "rows": [
                {"service": "chat", "subject": "token:ann", "messages": 2, "refused": 1,
                 "guest_time_ns": 1_500_000, "bytes_in": 2048, "bytes_sent": 5,
                 "stored_bytes": 0, "stored_byte_seconds": 0},
                {"service": "chat", "messages": 7},
                {"service": "chat", "others": true, "messages": 9},
            ],
            "stored": [{"service": "chat", "sessions": 3, "bytes": 4096}],
        });
        let lines: Vec<_> = shown(&report, UsageBy::Subject)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines[0],
            "SERVICE SUBJECT MESSAGES REFUSED GUEST TIME IN SENT STORED GIB HOURS"
        );
        assert_eq!(lines[1], "chat token:ann 2 1 1.5 ms 2 KiB 5 B 0 B 0.00");
        assert!(lines[2].starts_with("chat - 7 "), "{}", lines[2]);
        assert!(lines[3].starts_with("chat (others) 9 "), "{}", lines[3]);
        assert_eq!(lines[5..], ["STORED NOW SESSIONS BYTES", "chat 3 4 KiB"]);
    }
}
