//! A gate's report as one page that needs no network: no script, no font, no picture.

use super::super::output::{format_time, list, number, text};
use serde_json::Value;
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c2024;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}code,pre{font:13px/1.4 ui-monospace,monospace}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #d8dce0}\
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}.stopped,.stops,.aborted{color:#a3150f}.passed,.deployed{color:#116329}\
@media(prefers-color-scheme:dark){body{color:#e6e8ea;background:#15181b}td,th{border-color:#33383d}.stopped,.stops,.aborted{color:#ff8b82}.passed,.deployed{color:#6fdd8b}}";

/// The page of a gate.
pub fn page(view: &Value) -> String {
    let mut out = String::new();
    let (service, from, to) = (shown(view, "service"), shown(view, "from"), shown(view, "to"));
    let verdict = shown(view, "verdict");
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{service}: {to}</title><style>{STYLE}</style></head><body>\
         <h1>{service}: <code>{from}</code> to <code>{to}</code></h1>\
         <p>The gate: <strong class=\"{verdict}\">{verdict}</strong>"
    );
    if let Some(why) = view["why"].as_str() {
        let _ = write!(out, ": {}", escaped(why));
    }
    let _ = write!(out, "</p><p>Begun {}", escaped(&format_time(number(view, "begun_ms") as u64)));
    if view["ended_ms"].is_u64() {
        let _ = write!(out, ", ended {}", escaped(&format_time(number(view, "ended_ms") as u64)));
    }
    out.push_str(".</p>");
    let wants: Vec<_> = list(view, "wants").iter().filter_map(Value::as_str).collect();
    if !wants.is_empty() {
        out.push_str("<p>It wants what nobody has accepted:</p><ul>");
        for want in wants {
            let _ = write!(out, "<li><code>--accept {}</code></li>", escaped(want));
        }
        out.push_str("</ul>");
    }
    for stage in list(view, "stages") {
        stage_of(stage, &mut out);
    }
    out.push_str("</body></html>\n");
    out
}

fn stage_of(stage: &Value, out: &mut String) {
    let standing = shown(stage, "standing");
    let _ = write!(
        out,
        "<h2>{} <span class=\"{standing}\">{standing}</span></h2><p>{} of {} sessions, {} messages, {} ms</p>",
        shown(stage, "stage"),
        number(stage, "seen"),
        number(stage, "of"),
        number(stage, "messages"),
        number(stage, "elapsed_ms"),
    );
    for (name, what) in [("why", ""), ("unseen", "Not seen: ")] {
        for reason in list(stage, name) {
            let (why, sessions) = (shown(reason, "why"), number(reason, "sessions"));
            let example = shown(reason, "example");
            let _ = write!(out, "<p>{what}{why} ({sessions}) <code>{example}</code></p>");
        }
    }
    if !list(stage, "groups").is_empty() {
        out.push_str("<table><tr><th>What</th><th>Where</th><th>How often</th><th>Example</th><th>Before</th><th>After</th></tr>");
        for group in list(stage, "groups") {
            let stops = group["stops"].as_bool() == Some(true);
            let (class, does) = if stops { ("stops", "stops it: ") } else { ("", "") };
            let example = &group["example"];
            let seq = number(example, "seq");
            let at = if seq > 0.0 { format!(", message {seq}") } else { String::new() };
            let _ = write!(
                out,
                "<tr><td class=\"{class}\">{does}{}</td><td><code>{}</code></td><td>{}</td><td><code>{}</code>{at}</td>\
                 <td><pre>{}</pre></td><td><pre>{}</pre></td></tr>",
                shown(group, "kind"),
                shown(group, "path"),
                number(group, "count"),
                shown(example, "session"),
                shown(example, "stored"),
                shown(example, "came"),
            );
        }
        out.push_str("</table>");
    }
    if !list(stage, "costs").is_empty() {
        out.push_str("<table><tr><th>Messages of kind</th><th>How many</th><th>Before</th><th>After</th><th>Ratio</th></tr>");
        for cost in list(stage, "costs") {
            let total = |name: &str| number(&cost[name], "total");
            let (before, after) = (total("before"), total("after"));
            let _ = write!(
                out,
                "<tr><td><code>{}</code></td><td>{}</td><td>{before}</td><td>{after}</td><td>{:.2}</td></tr>",
                shown(cost, "of"),
                number(cost, "messages"),
                after / before.max(1.0),
            );
        }
        out.push_str("</table>");
    }
}

fn shown(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        _ => escaped(&text(value, name)),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients have sent is in it: opened in a browser, it must be text.
    #[test]
    fn a_page_is_of_text_and_needs_no_network() {
        let page = page(&super::super::show::example());
        assert!(page.contains("&lt;b&gt;hello&lt;/b&gt;") && !page.contains("<b>"));
        assert!(page.contains("stops it: trap") && page.contains("--accept http:api.example.com"));
        for outside in ["<script", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains('\u{1b}'));
    }
}
