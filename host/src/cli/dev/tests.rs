use super::*;
use slotd_toolchains::{NewOptions, new};

fn args(serve: &[&str], port: u16) -> Dev {
    Dev {
        resettable: false,
        dir: ".".into(),
        service: None,
        data: None,
        port,
        profile: None,
        serve: serve.iter().map(Into::into).collect(),
    }
}

/// Flags after `--` must count, and nothing may be written outside of the plugin's folder.
#[test]
fn the_nodes_configuration_is_serves_with_other_defaults() {
    let dir = Path::new("/plugins/poll");
    let loaded = configuration(&args(&[], 7070), dir).unwrap();
    assert_eq!(loaded.config.data_dir, Path::new("/plugins/poll/.slotd/data"));
    assert_eq!(loaded.config.admin.listen, "127.0.0.1:7071".parse().unwrap());
    let flags = ["--guests-memory", "128MiB", "--api-listen", "127.0.0.1:9"];
    let loaded = configuration(&args(&flags, 0), dir).unwrap();
    assert_eq!(loaded.config.guest_memory_bytes, 128 << 20);
    assert_eq!(loaded.config.api.listen, "127.0.0.1:9".parse().unwrap());
    assert_eq!(loaded.config.admin.listen, "127.0.0.1:0".parse().unwrap());
    for (serve, port, part) in [
        (&["--guests-memry", "1"][..], 0, "--guests-memry"),
        (&["--guests-memory", "x"], 0, "guests.memory"),
        (&["--nats-servers", "nats://127.0.0.1:1"], 0, "cluster"),
        (&[], 65_535, "--port"),
    ] {
        let error = configuration(&args(serve, port), dir).unwrap_err();
        assert!(error.exit == Exit::Usage && error.message.contains(part), "{}", error.message);
    }
}

/// The suggested command must send a message that the handler understands, to an existing service.
#[test]
fn the_line_to_try_is_the_readmes() {
    let readme = "```sh\nslotd send poll-2 a 1\n slotd send poll lunch '{}' --sender ann\n```";
    assert_eq!(
        first_send(readme, "poll", "tea").unwrap(),
        "slotd send tea lunch '{}' --sender ann"
    );
    assert_eq!(first_send(readme, "chat", "chat"), None);
}

/// A user who follows the printed suggestion must not get an error from their own handler.
#[test]
fn a_handler_that_was_changed_is_not_sent_the_templates_message() {
    let home = tempfile::tempdir().unwrap();
    let service = ServiceName::parse("cart").unwrap();
    for (lang, handler) in [(Lang::Python, "handler.py"), (Lang::C, "src/handler.c")] {
        let dir = home.path().join(lang.to_string());
        let (name, path) = ("cart".into(), Some(dir.clone()));
        let name_bytes_max = limits::SERVICE_NAME_BYTES_MAX;
        new(&NewOptions { lang, name, name_bytes_max, path, sdk: None }).unwrap();
        let vote = r#"slotd send cart lunch '{"vote": "tea"}' --sender ann"#;
        assert_eq!(line_to_try(&dir, &service, "cart"), vote, "{lang}");
        std::fs::write(dir.join(handler), "# another one").unwrap();
        let any = "slotd send cart room-1 '<a message for your handler>'";
        assert_eq!(line_to_try(&dir, &service, "cart"), any, "{lang}");
        // A message from the author's README is assumed to be valid.
        std::fs::write(dir.join("README.md"), "    slotd send cart alice 1\n").unwrap();
        assert_eq!(line_to_try(&dir, &service, "cart"), "slotd send cart alice 1", "{lang}");
    }
}
