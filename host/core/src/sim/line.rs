//! A step as a line of a script. What a simulation does is what its lines say: they are read and played as any
//! script's, so that what is written of a run is that run.

use crate::names::SessionKey;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

/// A client's message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub sender: Option<String>,
    pub client: Option<Value>,
    pub content_type: Option<String>,
    pub body: Body,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Body {
    #[default]
    None,
    Json(Value),
    Text(String),
    Base64(String),
}

/// What of an answer a file says: the fields of a script's line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given(pub Map<String, Value>);

/// A line, in the order in which it is best read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_wanted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(flatten)]
    pub given: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub crash: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Value>,
}

impl Message {
    /// Of a script's line.
    pub fn of(fields: &Map<String, Value>) -> Self {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let body = fields.get("body").cloned().map(Body::Json);
        let body = body.or_else(|| text("body_text").map(Body::Text));
        let body = body.or_else(|| text("body_base64").map(Body::Base64));
        Self {
            sender: text("sender"),
            client: fields.get("client").cloned(),
            content_type: text("content_type"),
            body: body.unwrap_or_default(),
        }
    }
}

impl Given {
    /// What a script's line says of an answer, but for whose it is.
    pub fn of(fields: &Map<String, Value>) -> Self {
        let names = [
            "body",
            "body_text",
            "body_base64",
            "content_type",
            "status",
            "headers",
            "parts",
            "code",
            "reason",
            "refusal",
            "attempts",
            "fail",
        ];
        let kept = fields.iter().filter(|(name, _)| names.contains(&name.as_str()));
        Self(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

impl Line {
    /// For a session.
    pub fn to(key: &SessionKey, own: &str) -> Self {
        let service = key.service.as_str();
        Self {
            service: (service != own).then(|| service.to_owned()),
            session: Some(key.session.as_str().to_owned()),
            ..Self::default()
        }
    }

    pub fn with_body(mut self, body: &Body) -> Self {
        match body {
            Body::None => {}
            Body::Json(value) => self.body = RawValue::from_string(value.to_string()).ok(),
            Body::Text(text) => self.body_text = Some(text.clone()),
            Body::Base64(text) => self.body_base64 = Some(text.clone()),
        }
        self
    }

    /// A body as a handler has given it, byte by byte.
    pub fn with_bytes(mut self, content_type: &str, bytes: &[u8]) -> Self {
        const JSON: &str = "application/json";
        const TEXT: &str = "text/plain; charset=utf-8";
        const BYTES: &str = "application/octet-stream";
        let text = std::str::from_utf8(bytes).ok();
        let json = text.filter(|it| content_type == JSON && !it.contains(['\n', '\r']));
        let json = json.and_then(|it| RawValue::from_string(it.to_owned()).ok());
        let json = json.filter(|it| it.get().as_bytes() == bytes);
        let usual = match (json, text) {
            (Some(json), _) => {
                self.body = Some(json);
                JSON
            }
            (None, Some("")) => BYTES,
            (None, Some(text)) => {
                self.body_text = Some(text.to_owned());
                TEXT
            }
            (None, None) => {
                self.body_base64 = Some(STANDARD.encode(bytes));
                BYTES
            }
        };
        self.content_type = (content_type != usual).then(|| content_type.to_owned());
        self
    }

    pub fn text(&self) -> String {
        // Maps with texts as keys, and numbers: nothing of it can't be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}
