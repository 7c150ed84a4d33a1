use super::*;

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

/// What a user says after `--` must count, and nothing may land outside of the plugin's folder.
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

/// The line to try must be one that the handler understands, and go to the service there is.
#[test]
fn the_line_to_try_is_the_readmes() {
    let readme = "```sh\nslotd send poll-2 a 1\n slotd send poll lunch '{}' --sender ann\n```";
    assert_eq!(
        first_send(readme, "poll", "tea").unwrap(),
        "slotd send tea lunch '{}' --sender ann"
    );
    assert_eq!(first_send(readme, "chat", "chat"), None);
}
