use super::{args::*, client::*, exit::*};
use crate::tls::ClientFiles;
use clap::{CommandFactory as _, Parser as _};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

fn parse(args: &[&str]) -> Cli {
    Cli::try_parse_from([&["slotd"], args].concat()).unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

/// Answers each connection with the next of `answers` and closes it; returns the requests.
async fn server(answers: Vec<&'static str>) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base/", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            asked.push(String::from_utf8(request).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        asked
    });
    let client = Client::new(
        &url,
        Some("t0ken".into()),
        Duration::from_secs(20),
        API,
        &ClientFiles::default(),
    )
    .unwrap();
    (client, asked)
}

/// clap detects contradictory definitions only at run time.
#[test]
fn the_description_is_sound() {
    Cli::command().debug_assert();
}

/// A configuration flag that is missing in the table, or the reverse, would be ignored.
#[test]
fn serve_takes_every_key_as_a_flag() {
    let cli = parse(&["serve", "--slot-count", "64", "--insecure", "--config", "f", "--node=-x"]);
    let Cmd::Serve(serve) = cli.command else { panic!("not serve") };
    assert_eq!(serve.config.file.as_deref().and_then(|f| f.to_str()), Some("f"));
    let flags: Vec<(&str, &str)> =
        serve.config.flags.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(flags, [("node", "-x"), ("slot_count", "64"), ("insecure", "true")]);
    let help = Cli::command().find_subcommand_mut("serve").unwrap().render_long_help().to_string();
    for key in crate::config::keys::KEYS.iter() {
        assert!(help.contains(&format!("--{}", key.flag())), "{}", key.name);
    }
}

#[test]
fn bodies_may_begin_with_a_dash() {
    for (body, expected) in [("-", "-"), ("-17", "-17"), ("--x", "--x")] {
        let cli = parse(&["send", "counter", "a", "--sender", "me", body]);
        let Cmd::Send(send) = cli.command else { panic!("not send") };
        assert_eq!((send.body.as_deref(), send.sender.as_deref()), (Some(expected), Some("me")));
    }
}

/// Every environment variable that the command line reads must pass the check for unknown ones.
#[test]
fn the_servers_check_knows_the_clients_variables() {
    let mut root = Cli::command();
    root.build();
    let mut variables = Vec::new();
    let mut commands: Vec<&clap::Command> = vec![&root];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        variables.extend(command.get_arguments().filter_map(|arg| arg.get_env()));
    }
    assert!(!variables.is_empty());
    for name in variables {
        let key = crate::config::keys::KEYS.iter().any(|key| *key.env() == *name);
        let other = crate::config::keys::OTHER_ENV.iter().any(|(known, _)| **known == *name);
        assert!(key || other, "{name:?}");
    }
}

/// Ids of moves are each node's own: one without its node could cancel another move.
#[test]
fn a_cancel_names_the_move_and_its_node() {
    let cli = parse(&["moves", "--cancel", "17", "--node", "b"]);
    let Cmd::Moves(moves) = cli.command else { panic!("not moves") };
    assert_eq!((moves.cancel, moves.node.as_deref()), (Some(17), Some("b")));
    for bad in [
        &["moves", "--cancel", "17"][..],
        &["moves", "--node", "b"],
        &["moves", "--cancel", "x", "--node", "b"],
        &["moves", "-n", "0"],
        &["node", "drain"],
    ] {
        assert!(Cli::try_parse_from([&["slotd"], bad].concat()).is_err(), "{bad:?}");
    }
}

/// A command that drops more than was meant can't be taken back.
#[test]
fn all_dead_messages_are_named_as_such() {
    let cli = parse(&["dead", "drop", "chat", "room", "close", "--due", "17"]);
    let Cmd::Dead(DeadCmd::Drop(dead)) = cli.command else { panic!("not dead drop") };
    assert_eq!((dead.message.as_deref(), dead.due, dead.all), (Some("close"), Some(17), false));
    let cli = parse(&["dead", "retry", "chat", "room", "--all"]);
    assert!(matches!(cli.command, Cmd::Dead(DeadCmd::Retry(dead)) if dead.all));
    for bad in [
        &["dead", "drop", "chat", "room"][..],
        &["dead", "drop", "chat"],
        &["dead", "drop", "chat", "room", "close", "--all"],
        &["dead", "drop", "chat", "room", "--all", "--due", "17"],
        &["timers", "chat", "room", "--after", "x"],
        &["timer", "cancel", "chat", "room"],
        &["request", "cancel", "chat", "room"],
    ] {
        assert!(Cli::try_parse_from([&["slotd"], bad].concat()).is_err(), "{bad:?}");
    }
}

#[test]
fn urls_that_can_not_work_are_refused_with_a_reason() {
    let try_url =
        |url: &str| Client::new(url, None, Duration::from_secs(1), API, &ClientFiles::default());
    for (url, reason) in [
        ("https://x_y!/", "no name of a host"),
        ("127.0.0.1:7070", "http://"),
        ("http://u:p@x", "more than a host"),
        ("http://x/?a", "more than a host"),
        ("", "parse"),
    ] {
        let error = try_url(url).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains(reason), "{url:?}: {}", error.message);
    }
    assert!(try_url("http://[::1]:7070").is_ok() && try_url("http://node.example/slotd/").is_ok());
}

#[tokio::test]
async fn nobody_there_says_how_to_start() {
    // Bound and dropped: nothing listens there now.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let client =
        Client::new(&url, None, Duration::from_secs(5), ADMIN, &ClientFiles::default()).unwrap();
    let error = client.get("/x").await.unwrap_err();
    assert_eq!(error.exit, Exit::Unreachable);
    assert!(error.message.contains("slotd serve") && error.message.contains("--admin-url"));
}

/// The user can act only on the server's message.
#[tokio::test]
async fn problems_are_told_in_full() {
    let (client, asked) = server(vec![
        "HTTP/1.1 422 X\r\ncontent-type: application/problem+json\r\n\r\n\
         {\"code\":\"rejected\",\"detail\":\"say\\u001b less\",\"status\":422,\"plugin\":\"1.0+ab\",\"rejection\":{\"code\":\"too-long\",\"message\":\"say\\u001b less\",\"retriable\":true}} ",
        "HTTP/1.1 503 X\r\nretry-after: 3\r\ncontent-length: 23\r\n\r\n{\"code\":\"mailbox-full\"}",
        "HTTP/1.1 401 X\r\ncontent-length: 23\r\n\r\n{\"code\":\"unauthorized\"}",
        "HTTP/1.1 502 X\r\ncontent-length: 6\r\n\r\n<html>",
        "HTTP/1.1 200 X\r\ncontent-length: 60\r\n\r\n{\"cut",
        "",
    ])
    .await;
    let mut errors = Vec::new();
    for _ in 0..6 {
        errors.push(client.get("/x").await.unwrap_err());
    }
    let exits: Vec<Exit> = errors.iter().map(|e| e.exit).collect();
    use Exit::*;
    assert_eq!(exits, [Refused, Server, Refused, Server, Unreachable, Unreachable]);
    for (error, expected) in errors.iter().zip([
        "rejected (422): too-long: say\\u{1b} less (retriable)\n  plugin: 1.0+ab",
        "mailbox-full (503)\n  Try again in 3 s.",
        "Pass the token with --token or $SLOTD_API_TOKEN",
        "not in slotd's format",
        "before the answer",
        "before the answer",
    ]) {
        assert!(error.message.contains(expected), "{expected:?} is not in {:?}", error.message);
    }
    let asked = asked.await.unwrap();
    assert!(asked[0].starts_with("GET /base/x HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].to_lowercase().contains("authorization: bearer t0ken\r\n"));
    assert!(!format!("{errors:?}").contains("t0ken"));
}

/// Without it `tail --follow` would lose or repeat events at every restart of a node, or end at a
/// handler's event with one of the node's own names, which an earlier node allows.
#[tokio::test]
async fn a_stream_that_breaks_goes_on_after_the_last_event() {
    let (client, asked) = server(vec![
        "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n\
         id: 8.0\nevent: line\ndata: {\"seq\":8}\n\n\
         id: 8.1\nevent: slotd.deleted\ndata: {\"seq\":8}\n\n\
         event: typing\ndata: {\"ephemeral\":true,\"kind\":\"typing\"}\n\nid: 9.0\nda",
        "HTTP/1.1 503 X\r\ncontent-length: 22\r\n\r\n{\"code\":\"unavailable\"}",
        "HTTP/1.1 200 X\r\n\r\nevent: slotd.deleted\ndata: {}\n\n",
    ])
    .await;
    let mut cursor = String::from("7");
    super::tail::follow(&client, "/events", &mut cursor, true).await.unwrap();
    assert_eq!(cursor, "8.1");
    let ids: Vec<String> = asked
        .await
        .unwrap()
        .iter()
        .filter_map(|r| Some(r.split_once("last-event-id: ")?.1.lines().next()?.to_owned()))
        .collect();
    assert_eq!(ids, ["7", "8.1", "8.1"]);
}

/// A node that accepts the request and never answers must not hang a script.
#[tokio::test]
async fn a_silent_node_is_given_up() {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client =
        Client::new(&url, None, Duration::from_millis(50), API, &ClientFiles::default()).unwrap();
    let error = client.get("/x").await.unwrap_err();
    assert_eq!(error.exit, Exit::Unreachable);
    assert!(error.message.contains("--timeout"), "{}", error.message);
}

/// `SLOTD_CA=` in a script of an operator who has no authority of his own would end every command; and half of a client
/// certificate be none, without a word.
#[test]
fn an_empty_file_of_tls_is_none_and_half_a_certificate_an_error() {
    let client = |args: &[&str]| {
        let Cmd::Rebalance(args) = parse(&[&["rebalance"][..], args].concat()).command else {
            panic!("not rebalance")
        };
        args.admin.client().map(drop)
    };
    assert!(client(&["--ca=", "--cert=", "--key="]).is_ok());
    for half in [&["--cert=a.pem"][..], &["--key=a.key"], &["--cert=a.pem", "--key="]] {
        let error = client(half).unwrap_err();
        assert!(error.message.contains("belong together"), "{}", error.message);
    }
}
