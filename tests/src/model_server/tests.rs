use super::*;
use crate::http::{Answer, Client};
use hyper::Method;

const PATH: &str = "/v1/chat/completions";

async fn server(at_once: usize, troubles: bool) -> ModelServer {
    let options = ModelOptions {
        at_once,
        troubles,
        pace: Duration::from_millis(1),
        pause: Duration::from_millis(1),
    };
    ModelServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), options).await.expect("a server")
}

async fn ask(server: &ModelServer, key: &str, question: &Value) -> anyhow::Result<Answer> {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let client = Client::new(server.address);
    client.request(Method::POST, PATH, &headers, question.to_string()).await
}

fn question(stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": "Please use count." }]);
    let tools = json!([{ "type": "function", "function": { "name": "count" } }]);
    let options = json!({ "include_usage": true });
    json!({ "model": "m", "messages": messages, "tools": tools, "stream": stream, "stream_options": options })
}

/// The text of a stream, and the reason of its end.
fn read(answer: &Answer) -> (String, String) {
    let text = answer.text();
    let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let (mut said, mut finish) = (String::new(), String::new());
    for chunk in data.filter_map(|data| serde_json::from_str::<Value>(data).ok()) {
        let choice = &chunk["choices"][0];
        said.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        finish.push_str(choice["finish_reason"].as_str().unwrap_or_default());
    }
    (said, finish)
}

/// A model that says another thing than its plan would make the checkers find what is not there.
#[tokio::test]
async fn it_says_what_the_plan_says_streamed_or_not() {
    let server = server(2, false).await;
    let expected = plan::words("k").concat();
    let streamed = ask(&server, "k", &question(true)).await.expect("an answer");
    assert!(streamed.text().ends_with("data: [DONE]\n\n"));
    assert!(streamed.text().contains("total_tokens"));
    assert_eq!(read(&streamed), (expected.clone(), "tool_calls".into()));
    let whole: Value =
        ask(&server, "k", &question(false)).await.expect("one").json().expect("JSON");
    assert_eq!(whole["choices"][0]["message"]["content"], expected);
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "count");
    let ledger = server.ledger();
    let asked = &ledger.requests["k"];
    assert_eq!(
        (asked.attempts, asked.finished, asked.words),
        (2, 2, 2 * plan::words("k").len() as u64)
    );
    for bad in
        [ask(&server, "", &json!({})).await, Client::new(server.address).post(PATH, "{}").await]
    {
        assert_eq!(bad.expect("an answer").status, 400);
    }
}

#[tokio::test]
async fn its_troubles_come_as_planned_and_are_in_the_account() {
    let server = server(8, true).await;
    let key = |wanted: fn(&Trouble) -> bool| {
        let mut keys = (0..10_000).map(|n| n.to_string());
        keys.find(|key| plan::trouble(key, 1).is_some_and(|it| wanted(&it))).expect("a key")
    };
    let error = ask(&server, &key(|it| *it == Trouble::Error), &question(true)).await;
    assert_eq!(error.expect("an answer").status, 500);
    let busy = ask(&server, &key(|it| *it == Trouble::Busy), &question(true)).await;
    let busy = busy.expect("an answer");
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("1")));
    let cut = ask(&server, &key(|it| matches!(it, Trouble::Cut(_))), &question(true)).await;
    assert!(cut.is_err(), "{cut:?}");
    let ledger = server.ledger();
    assert_eq!((ledger.errors, ledger.busy, ledger.cut), (1, 1, 1));
}

#[tokio::test]
async fn more_at_once_than_it_takes_are_refused() {
    let server = server(1, false).await;
    let client = Client::new(server.address);
    let mut stream = client.open().await.expect("a connection");
    let body = question(true).to_string();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nidempotency-key: a\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(head.as_bytes()).await.expect("written");
    // Its head is there: the place is taken, until the answer is read.
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.expect("an answer");
    let refused = ask(&server, "b", &question(true)).await.expect("an answer");
    assert_eq!(refused.status, 429);
    let mut rest = Vec::new();
    while !rest.ends_with(b"0\r\n\r\n") {
        assert!(stream.read_buf(&mut rest).await.expect("more") > 0);
    }
    let taken = ask(&server, "b", &question(true)).await.expect("an answer");
    assert_eq!(taken.status, 200);
    let ledger = server.ledger();
    assert_eq!((ledger.over_limit, ledger.at_once, ledger.requests["b"].attempts), (1, 1, 2));
}

/// The page's proxy must not hold back what is streamed through it, and take a node that is gone for one of many.
#[tokio::test]
async fn a_page_and_what_it_asks_for_are_of_one_origin() {
    let server = server(8, false).await;
    let gone =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one");
    let nodes: Arc<[SocketAddr]> = [gone, server.address].into();
    let (_keep, nodes) = tokio::sync::watch::channel(nodes);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let page = crate::page::PageServer::start(listen, crate::page::example("agent"), nodes).await;
    let page = page.expect("a page");
    let client = Client::new(page.address);
    for (path, kind) in
        [("/", "text/html"), ("/?session=x", "text/html"), ("/agent.js", "text/javascript")]
    {
        let answer = client.get(path).await.expect("an answer");
        assert!(answer.header("content-type").is_some_and(|it| it.starts_with(kind)), "{path}");
    }
    for path in ["/nothing.js", "/../agent/agent.js", "/%2e%2e/x.js", "/README.md", "/.js"] {
        assert_eq!(client.get(path).await.expect("an answer").status, 404, "{path}");
    }
    for _ in 0..2 {
        let headers = [("idempotency-key", "k"), ("origin", "http://elsewhere")];
        let body = question(true).to_string();
        let answer = client.request(Method::POST, PATH, &headers, body).await.expect("an answer");
        assert_eq!(read(&answer).0, plan::words("k").concat());
    }
}
