//! All of the suite for one language, on one node.

use crate::{bodies, expire, failures, http, play, random, sends, timers, web::Web};
use anyhow::Context;
use slotd_tests::{
    node::{Node, NodeOptions, scenario},
    plugins::{self, Lang},
};

pub const COUNTER: &str = "counter";
pub const SINK: &str = "kitchen-sink";

/// What is tested, and where.
pub struct Suite {
    pub lang: Lang,
    pub node: Node,
    /// What its handlers may ask over HTTP.
    pub web: Web,
}

/// What an instance is used for after its first call (`guests.isolation`): must make no difference.
pub const ISOLATIONS: &[&str] = &["shared", "session", "call"];

/// One slot, so that all sessions can be served by one instance; room for large bodies; time for
/// large work in a slow language on a busy machine; and all that plugins log.
pub fn options(isolation: &str) -> NodeOptions {
    let args = ["--slot-count", "1", "--guests-isolation", isolation].map(String::from).to_vec();
    let env = [
        ("SLOTD_API_BODY_MAX", "4MiB"),
        ("SLOTD_API_NOTIFY", SINK),
        ("SLOTD_EFFECTS_SEND", "*>*"),
        ("SLOTD_GUESTS_DEADLINE", "5s"),
        ("SLOTD_LOG_FILTER", "info,slotd::guest=trace"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    NodeOptions { args, env, ..NodeOptions::default() }
}

/// Whether a language is tested; says so if it is not.
pub fn is_tested(lang: Lang) -> bool {
    if !lang.is_tested() {
        eprintln!("NOT TESTED: {}, whose tools can't be had here", lang.name());
    }
    lang.is_tested()
}

/// Runs every part, so that one that fails does not hide the others.
pub fn run(lang: Lang, isolation: &str) {
    if !is_tested(lang) {
        return;
    }
    scenario(async {
        let web = Web::start().await?;
        let mut options = options(isolation);
        let rule = format!("*>http://127.0.0.1:{}!private", web.port);
        options.env.push(("SLOTD_EFFECTS_HTTP".into(), rule));
        let node = Node::start_with(options).await?;
        node.admin().deploy(COUNTER, plugins::load(&lang.of(COUNTER))?).await?;
        let suite = Suite { lang, node, web };
        let mut failed = Vec::new();
        let mut check = |what: &str, result: anyhow::Result<()>| {
            failed.extend(result.err().map(|error| format!("{what}: {error:#}")));
        };
        check("counter", play::scripts(&suite, COUNTER).await);
        check("large bodies for the counter", bodies::counter(&suite).await);
        if lang.has_kitchen_sink() {
            let sink = plugins::load(&lang.of(SINK))?;
            suite.node.admin().deploy(SINK, sink).await.context("deploying the kitchen sink")?;
            check("scripts", play::scripts(&suite, SINK).await);
            check("large bodies", bodies::raw(&suite).await);
            check("all of binary", bodies::binary(&suite).await);
            check("long keys", bodies::keys(&suite).await);
            check("traces", failures::traces(&suite).await);
            check("the log", failures::log(&suite).await);
            check("migrate", failures::migrate(&suite).await);
            check("the clock", random::clock(&suite).await);
            check("randomness", random::random(&suite).await);
            check("timers", timers::once(&suite).await);
            check("timers that fail", timers::failing(&suite).await);
            check("a session that expires", expire::gone(&suite).await);
            check("a session that is kept", expire::kept(&suite).await);
            check("messages to other sessions", sends::in_order(&suite).await);
            check("replies of other sessions", sends::replies(&suite).await);
            check("messages that fail", sends::failing(&suite).await);
            check("answers of requests", http::answers(&suite).await);
            check("requests that fail", http::failing(&suite).await);
            check("answers that are shown", http::shown(&suite).await);
            check("requests that are ended", http::ended(&suite).await);
            check("a session that is closed", http::closed(&suite).await);
            check("subscribers that come and go", http::presence(&suite).await);
        }
        let name = lang.name();
        anyhow::ensure!(failed.is_empty(), "{name}, {isolation}:\n{}", failed.join("\n"));
        Ok(())
    });
}
