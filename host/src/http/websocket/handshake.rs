//! The opening handshake.

use super::super::params::invalid;
use crate::error::Error;
use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header,
    request::Parts,
};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A valid request for a WebSocket.
pub(in super::super) struct Upgrade {
    on_upgrade: OnUpgrade,
    accept: HeaderValue,
}

impl Upgrade {
    /// # Errors
    /// `request-invalid` with what is wrong.
    pub(in super::super) fn of(request: &mut Parts) -> Result<Self, Error> {
        let wrong = |why: &str| invalid(format!("this route opens a WebSocket: {why}"));
        let headers = &request.headers;
        if request.version == Version::HTTP_2 {
            return Err(wrong(
                "it needs a connection of its own by HTTP/1.1, and this request came by HTTP/2",
            ));
        }
        if request.method != Method::GET || request.version != Version::HTTP_11 {
            return Err(wrong("the request must be a GET by HTTP/1.1"));
        }
        if !has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(wrong("`Connection` must hold `Upgrade`"));
        }
        if !has_token(headers, &header::UPGRADE, "websocket") {
            return Err(wrong("`Upgrade` must hold `websocket`"));
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
            return Err(wrong("`Sec-WebSocket-Version` must be 13"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let key = key.filter(|key| BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16));
        let key = key.ok_or_else(|| wrong("`Sec-WebSocket-Key` must be 16 bytes in base64"))?;
        let accept = HeaderValue::from_str(&derive_accept_key(key))
            .map_err(|_| wrong("`Sec-WebSocket-Key` must be 16 bytes in base64"))?;
        let on_upgrade = request.extensions.remove::<OnUpgrade>();
        let on_upgrade = on_upgrade.ok_or_else(|| wrong("this connection can't be upgraded"))?;
        Ok(Self { on_upgrade, accept })
    }

    /// The answer, and the connection after it is written.
    pub(in super::super) fn accept(self) -> (Response<Body>, OnUpgrade) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        (response, self.on_upgrade)
    }
}

/// Whether a list in a header has this word.
fn has_token(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let words = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    words.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}
