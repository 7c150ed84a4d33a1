use super::{keys::KEYS, load::Origin, *};
use std::path::Path;

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn sources(file: Option<PathBuf>, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    Sources {
        file,
        env: env.iter().map(|(k, v)| (k.into(), v.into())).collect(),
        flags: flags.iter().map(|(k, v)| (*k, v.to_string())).collect(),
    }
}

/// The errors as users see them, without the path of the test's directory.
fn complaint(sources: &Sources) -> String {
    let text = load(sources).expect_err("it should be refused").to_string();
    match sources.file.as_ref().and_then(|file| file.parent()) {
        Some(dir) => text.replace(&format!("{}/", dir.display()), ""),
        None => text,
    }
}

/// Without a defined order of sources a file could override an operator's flag.
#[test]
fn later_sources_win() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "slotd.toml",
        "slot_count = 64\nnode = 'file'\n[slots]\nmailbox = 1_000\nidle = '1m'\n[api]\nbody_max = 0x1000\n",
    );
    let env = [("SLOTD_NODE", "env"), ("SLOTD_SLOTS_IDLE", "2m"), ("SLOTD_SLOTS_CACHE", "")];
    let loaded = load(&sources(Some(file.clone()), &env, &[("slots.idle", "3m")])).unwrap();
    let config = &loaded.config;
    assert_eq!(
        (config.slot_count, config.node.as_str(), config.mailbox_messages, config.body_bytes_max),
        (64, "env", 1_000, 4_096)
    );
    assert_eq!(config.slot_idle, Duration::from_secs(180));
    assert_eq!(loaded.origins["slots.mailbox"], Origin::File { path: file, line: 4 });
    assert_eq!(loaded.origins["node"].to_string(), "$SLOTD_NODE");
    assert_eq!(loaded.origins["slots.idle"].to_string(), "--slots-idle");
    assert!(!loaded.origins.contains_key("slots.cache"));
}

/// An operator who fixes one mistake at a time restarts ten times.
#[test]
fn all_problems_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "slotd.toml",
        "slot_count = 'many'\nlistne = 1\n[api]\nlisten = \"localhost:7070\"\nbody_max = \"1GiB\"\ntokne = \"hunter2hunter2\"\n[guest]\nmemory = 1\n",
    );
    let env = [("SLOTD_SLOT_COUNT", "0"), ("SLOTD_LOG_FILTR", "debug"), ("PATH", "/bin")];
    // A valid node name; as a cluster name NATS would refuse it, long after the check.
    const CLUSTER: (&str, &str) = ("cluster.name", "lab.eu");
    let flags = [("log.filter", "inof"), ("api.token", "a b"), ("guests.deadline", "5"), CLUSTER];
    let text = complaint(&sources(Some(file), &env, &flags));
    for expected in [
        "12 problems",
        "slotd.toml:1: slot_count = \"many\"",
        "of type string, and must be a whole number from 1 to 16384",
        "slotd.toml:2: listne = \"1\"\n      unknown key; did you mean api.listen?",
        "slotd.toml:4: api.listen = \"localhost:7070\"",
        "slotd.toml:5: api.body_max = \"1GiB\"",
        "a size from 1 to 4MiB",
        "slotd.toml:6: api.tokne = <redacted>\n      unknown key; did you mean api.token?",
        "slotd.toml:7: guest\n      unknown key; did you mean guests?",
        "$SLOTD_SLOT_COUNT: slot_count = \"0\"",
        "$SLOTD_LOG_FILTR: SLOTD_LOG_FILTR = \"debug\"\n      unknown variable; did you mean SLOTD_LOG_FILTER?",
        "--log-filter: log.filter = \"inof\"",
        "--api-token: api.token = <redacted>",
        "--guests-deadline: guests.deadline = \"5\"",
        "--cluster-name: cluster.name = \"lab.eu\"",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(!text.contains("hunter2"), "a token shows in\n{text}");
}

/// Many parsers quote the line of a syntax error; ours may contain a token.
#[test]
fn a_syntax_error_shows_its_place_and_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        write(dir.path(), "slotd.toml", "slot_count = 4\n[api]\ntoken = \"hunter2hunter2\n[log]\n");
    let text = complaint(&sources(Some(file), &[], &[]));
    assert!(text.contains("slotd.toml:3"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

/// Without it a typing error in `--config` would start a node with defaults and no data.
#[test]
fn a_file_that_is_named_must_be_there() {
    let missing = PathBuf::from("/nowhere/slotd.toml");
    let text = load(&sources(Some(missing), &[], &[])).unwrap_err().to_string();
    assert!(
        text.contains("--config: config = \"/nowhere/slotd.toml\"\n      the file does not exist")
    );
    let text =
        load(&sources(None, &[("SLOTD_CONFIG", "/nowhere/x")], &[])).unwrap_err().to_string();
    assert!(text.contains("$SLOTD_CONFIG"), "{text}");
}

/// A deploy is code execution: it must not be exposed by mistake.
#[test]
fn off_loopback_needs_a_token_and_tls() {
    let open = [("SLOTD_API_LISTEN", "0.0.0.0:7070"), ("SLOTD_ADMIN_LISTEN", "[::]:7071")];
    let text = complaint(&sources(None, &open, &[]));
    assert!(text.contains("4 problems") && text.contains("--insecure"), "{text}");
    let insecure = load(&sources(None, &open, &[("insecure", "true")])).unwrap();
    assert_eq!(insecure.warnings.len(), 4);
    let tokens = [("api.token", "a-long-token"), ("admin.token", "another-token")];
    let text = complaint(&sources(None, &open, &tokens));
    assert!(text.contains("2 problems") && text.contains("api.clear_text = true"), "{text}");
    let behind = [("api.clear_text", "true"), ("admin.clear_text", "true")];
    let behind = [&tokens[..], &behind].concat();
    assert!(load(&sources(None, &open, &behind)).unwrap().warnings.is_empty());
    let local = [("api.listen", "127.8.8.8:1"), ("admin.listen", "[::ffff:127.0.0.1]:2")];
    assert!(load(&sources(None, &[], &local)).is_ok());
}

#[test]
fn tokens_come_from_files_and_conflicts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good", "from-the-file\n");
    let bad = write(dir.path(), "bad", "two words\n");
    let [good, bad] = [good, bad].map(|path| path.display().to_string());
    let loaded = load(&sources(None, &[("SLOTD_API_TOKEN_FILE", &good)], &[])).unwrap();
    assert_eq!(loaded.config.api.token.unwrap().reveal(), "from-the-file");
    assert_eq!(loaded.origins["api.token"].to_string(), "$SLOTD_API_TOKEN_FILE");

    let later =
        load(&sources(None, &[("SLOTD_API_TOKEN_FILE", &good)], &[("api.token", "from-the-flag")]));
    assert_eq!(later.unwrap().config.api.token.unwrap().reveal(), "from-the-flag");

    let both = [("api.token", "from-the-flag"), ("api.token_file", good.as_str())];
    assert!(complaint(&sources(None, &[], &both)).contains("use one of them"));
    let text = complaint(&sources(None, &[], &[("admin.token_file", &bad)]));
    assert!(text.contains("not a token") && !text.contains("two words"), "{text}");
}

#[test]
fn values_must_fit_each_other() {
    let same = [("api.listen", "127.0.0.1:5"), ("admin.listen", "127.0.0.1:5")];
    assert!(complaint(&sources(None, &[], &same)).contains("different addresses"));
    let deadlines = [("guests.deadline", "10s"), ("api.request_deadline", "5s")];
    assert!(
        complaint(&sources(None, &[], &deadlines))
            .contains("longer than api.request_deadline (5s)")
    );
    let free = [("api.listen", "127.0.0.1:0"), ("admin.listen", "127.0.0.1:0")];
    assert!(load(&sources(None, &[], &free)).is_ok());
}

/// Kubernetes sets variables for services named slotd, or slotd-api, in every pod; a node must
/// start all the same. Similar but different names are typing errors.
#[test]
fn variables_of_kubernetes_are_ignored_and_typing_errors_are_not() {
    let described = |service: &str| {
        let of = |name: &str, value: &str| (format!("SLOTD{service}_{name}"), value.to_owned());
        [
            of("SERVICE_HOST", "10.0.0.1"),
            of("SERVICE_PORT", "7070"),
            of("SERVICE_PORT_API", "7070"),
            of("PORT", "tcp://10.0.0.1:7070"),
            of("PORT_7070_TCP", "tcp://[fd00::1]:7070"),
            of("PORT_7070_TCP_PROTO", "tcp"),
            of("PORT_7070_TCP_PORT", "7070"),
            of("PORT_7070_TCP_ADDR", "fd00::1"),
        ]
    };
    for service in ["", "_API", "_ADMIN", "_CLUSTER_PEERS"] {
        let env = described(service);
        let mut env: Vec<_> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        env.extend([("SLOTD_URL", "http://x"), ("SLOTDX", "1")]);
        let loaded = load(&sources(None, &env, &[])).unwrap();
        assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
        assert!(loaded.notes[0].contains("and 4 more"), "{:?}", loaded.notes);
    }
    for (name, value) in [
        ("SLOTD_API_PORT", "7070"),
        ("SLOTD_ADMIN_PORT", "127.0.0.1:7071"),
        ("SLOTD_API_SERVICE_HOST", "true"),
        ("SLOTD_API_PORT_7070_TCQ", "tcp://10.0.0.1:7070"),
        ("SLOTD_API_LISTNE", "tcp://10.0.0.1:7070"),
    ] {
        let complaint = complaint(&sources(None, &[(name, value)], &[]));
        assert!(complaint.contains(name), "{complaint}");
    }
    assert!(load(&sources(None, &[], &[])).unwrap().notes.is_empty());
}

/// Anyone who can read the token can do what it allows, and nobody checks file modes by hand.
#[test]
fn secrets_that_everyone_can_read_are_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let token = write(dir.path(), "token", "hunter2hunter2");
    let file = write(dir.path(), "slotd.toml", "[admin]\ntoken = \"hunter3hunter3\"\n");
    let path = token.display().to_string();
    let warnings = |mode: u32| {
        for file in [&token, &file] {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let sources = sources(Some(file.clone()), &[], &[("api.token_file", &path)]);
        load(&sources).unwrap().warnings
    };
    assert_eq!(warnings(0o640), Vec::<String>::new());
    let warned = warnings(0o644);
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned[1].contains(&format!("chmod o-rwx {path}")), "{warned:?}");
    // A file that only names the one with the token contains no secret.
    write(dir.path(), "slotd.toml", &format!("[api]\ntoken_file = {path:?}\n"));
    let warned = load(&sources(Some(file), &[], &[])).unwrap().warnings;
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains(&format!("chmod o-rwx {path}")), "{warned:?}");
}

/// `config print > slotd.toml` must result in the same configuration.
#[test]
fn what_is_printed_can_be_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        ("data_dir", "/tmp/a \"b\""),
        ("slots.idle", "90s"),
        ("store.cache", "1500001"),
        ("log.format", "json"),
        ("api.token", "hunter2hunter2"),
    ];
    let first = load(&sources(None, &[], &flags)).unwrap();
    let printed = first.to_toml();
    assert!(!printed.contains("hunter2") && printed.contains("# token = <redacted>"), "{printed}");
    assert!(!format!("{:?} {}", first.config, first.to_json()).contains("hunter2"));
    let file = write(dir.path(), "printed.toml", &printed);
    let second = load(&sources(Some(file), &[], &[])).unwrap();
    for key in KEYS.iter().filter(|key| !key.is_secret()) {
        assert_eq!((key.get)(&first.config), (key.get)(&second.config), "{}", key.name);
    }
}

/// A NATS address is not a token, but may contain one: it must never be shown, least of all in the
/// error about a typing error in it.
#[test]
fn a_password_of_nats_shows_nowhere() {
    let servers = "nats://slotd:hunter2@a:4222, tls://t0kenhunter2@b:4222,nats://c:4222";
    let flags = [
        ("nats.servers", servers),
        ("cluster.secret", "5f0c1b7e9a3d42688d1f60b2c4e7a935"),
        ("cluster.listen", "127.0.0.1:0"),
    ];
    let loaded = load(&sources(None, &[], &flags)).unwrap();
    assert!(loaded.config.nats.servers.as_deref().unwrap().contains("hunter2"));
    let shown = format!("{} {} {:?}", loaded.to_toml(), loaded.to_json(), loaded.config);
    assert!(!shown.contains("hunter2") && shown.contains("nats://c:4222"), "{shown}");
    for wrong in ["nat://slotd:hunter2@a:4222", "nats://a:4222,b:hunter2@c", "nats://u:hun,ter2@c"]
    {
        let complaint = load(&sources(None, &[], &[("nats.servers", wrong)])).unwrap_err();
        let complaint = complaint.to_string();
        assert!(complaint.contains("<redacted>") && !complaint.contains("ter2"), "{complaint}");
    }
}

/// A row whose `set` expects another kind of value than it parses would be silently ignored; a
/// default that is out of bounds could not be written explicitly.
#[test]
fn every_key_takes_its_own_default_and_another_value() {
    use super::value::Kind;
    for key in KEYS.iter() {
        let mut config = Config::default();
        if let Some(default) = (key.get)(&config) {
            assert_eq!(key.kind.parse(&default.to_string()), Some(default), "{}", key.name);
        }
        let other = match key.kind {
            Kind::Count { min, .. } => min.to_string(),
            Kind::OneOf(numbers) => numbers[0].to_string(),
            Kind::Size { max, .. } => max.to_string(),
            Kind::Duration { max, .. } => Value::Duration(max).to_string(),
            Kind::Flag => "true".into(),
            Kind::Address => "[::1]:9".into(),
            Kind::Choice(choices) => choices[choices.len() - 1].into(),
            Kind::Filter => "warn,slotd::slot=debug".into(),
            Kind::NatsServers => "nats://a:4222, tls://b:4222".into(),
            Kind::Monitors => "http://a:8222, http://b:8222".into(),
            Kind::Seeds => "a:1, [::1]:7072".into(),
            Kind::Services => "chat, board".into(),
            Kind::Sends => "cart>stock, chat>*".into(),
            Kind::HttpRules => "chat>a.example, *>10.0.0.7:8080!private".into(),
            Kind::HttpGrants => "chat>KEY>a.example".into(),
            Kind::Prefix => "SECRET_".into(),
            Kind::Snapshots => "file:///var/snapshots".into(),
            Kind::Name | Kind::ClusterName | Kind::Path | Kind::Command | Kind::Secret => {
                "something-else".into()
            }
        };
        let other = key.kind.parse(&other).unwrap();
        (key.set)(&mut config, other.clone());
        assert_eq!((key.get)(&config), Some(other), "{}", key.name);
        assert_eq!(keys::find(key.name).map(|found| found.name), Some(key.name));
    }
}

/// A guessable secret lets anyone who captures one message between nodes into the cluster. A
/// cluster from before the check must be able to continue, with a warning.
#[test]
fn a_weak_secret_of_a_cluster_is_refused_unless_it_is_accepted() {
    let weak = "correct-horse-battery-staple";
    let flags = |more: &[(&'static str, &'static str)]| {
        let all = [("nats.servers", "nats://a:4222"), ("cluster.secret", weak)];
        sources(None, &[], &[&all[..], more].concat())
    };
    let text = complaint(&flags(&[]));
    for part in ["cluster.secret = <redacted>", "too weak", "`slotd cluster secret`"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("horse"), "{text}");
    let loaded = load(&flags(&[("cluster.accept_weak_secret", "true")])).unwrap();
    let is_warned = loaded.warnings.iter().any(|w| w.contains("too weak") && !w.contains("horse"));
    assert!(is_warned, "{:?}", loaded.warnings);
    // The setting does not matter on a standalone node.
    assert!(load(&sources(None, &[], &[("cluster.secret", weak)])).is_ok());
    let strong = [("cluster.secret", "5f0c1b7e9a3d42688d1f60b2c4e7a935")];
    let all = [&[("nats.servers", "nats://a:4222")], &strong[..]].concat();
    assert!(load(&sources(None, &[], &all)).unwrap().warnings.is_empty());
}

/// A fault in the policy would only show when the node starts; and a listener that others reach would be refused although
/// rules say who may use it, or be taken although none does.
#[test]
fn a_policy_is_checked_and_can_stand_for_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let rule = |verb: &str| {
        format!("[[rule]]\nwho = [\"token:backend\"]\nallow = [\"{verb}\"]\non = [\"chat\"]\n")
    };
    let policy = write(dir.path(), "policy.toml", &rule("send"));
    let path = policy.to_str().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let flags = |more: &[(&'static str, &str)]| {
        let all = [("api.listen", "0.0.0.0:7070"), ("api.clear_text", "true"), ("data_dir", data)];
        sources(None, &[], &[&all[..], more].concat())
    };
    assert!(complaint(&flags(&[])).contains("have access.file say who may use it"));
    assert!(load(&flags(&[("access.file", path)])).is_ok());
    // A listener of which it says nothing is for nobody, where others reach it.
    let admin = [("admin.listen", "0.0.0.0:7071"), ("admin.clear_text", "true")];
    assert!(complaint(&flags(&admin)).contains("admin.listen"));
    assert!(load(&flags(&[&admin[..], &[("access.file", path)]].concat())).is_ok());
    let tokens = r#"{"format":1,"value":{"tokens":[{"name":"a","hash":"HASH","created_ms":1,"grants":[{"allow":["send"],"on":["*"]}]}]}}"#;
    std::fs::create_dir_all(dir.path().join("data/access")).unwrap();
    write(
        &dir.path().join("data/access"),
        "tokens.json",
        &tokens.replace("HASH", &"ab".repeat(32)),
    );
    assert!(load(&flags(&[])).is_ok(), "a token that is kept says it, too");

    write(dir.path(), "policy.toml", &format!("{}\nwhat = 1\n", rule("sent")));
    let text = complaint(&flags(&[("access.file", path)]));
    for part in ["policy.toml:3: access.file", "sent", "policy.toml:6: access.file", "what"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let missing = complaint(&flags(&[("access.file", "/none/policy.toml")]));
    assert!(
        missing.contains("--access-file: access.file") && missing.contains("does not exist"),
        "{missing}"
    );
}

/// A list of rules is long. What is wrong in it has to be found, and a key that was pasted into it must not be printed.
#[test]
fn a_wrong_rule_is_named_and_a_pasted_secret_is_not_shown() {
    let flags = [
        ("effects.http", "chat>a.example, chat>*.b.example!private"),
        ("effects.http_secrets", "chat>sk-live-0123>a.example"),
        ("effects.secrets_env", "SLOTD_SECRET_"),
    ];
    let complaint = complaint(&sources(None, &[], &flags));
    assert!(complaint.contains("item 2: !private needs one named host"), "{complaint}");
    assert!(complaint.contains("a secret's name has letters, digits and _"), "{complaint}");
    assert!(complaint.contains("which are slotd's own"), "{complaint}");
    assert!(!complaint.contains("sk-live"), "{complaint}");
}

/// What every user of the machine can read is no secret, nor is what goes out unencrypted.
#[test]
fn secrets_that_others_may_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "secrets", "KEY=0123456789\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let flags = [
        ("effects.http", "chat>http://a.example"),
        ("effects.http_secrets", "chat>KEY>http://a.example"),
        ("effects.secrets_file", file.to_str().unwrap()),
    ];
    let warnings = load(&sources(None, &[], &flags)).unwrap().warnings;
    let has = |part: &str| warnings.iter().any(|warning| warning.contains(part));
    assert!(has("which holds effects.secrets_file"), "{warnings:?}");
    assert!(has("the secret is sent unencrypted"), "{warnings:?}");
    assert!(has("traffic to it is not encrypted"), "{warnings:?}");
    assert!(!has("0123456789"), "{warnings:?}");
}
