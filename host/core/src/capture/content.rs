//! Bytes that people may read: as JSON or text where they are that, byte by byte, and else in base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// As it is written, byte by byte.
    Json(Box<RawValue>),
    Text(String),
    Base64(String),
}

impl Content {
    pub fn of(bytes: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Self::Base64(STANDARD.encode(bytes));
        };
        // Lines are for the file's own form.
        let json = Some(text).filter(|it| !it.contains(['\n', '\r']));
        let json = json.and_then(|it| serde_json::from_str::<Box<RawValue>>(it).ok());
        match json.filter(|json| json.get() == text) {
            Some(json) => Self::Json(json),
            None => Self::Text(text.to_owned()),
        }
    }

    /// # Errors
    /// It is damaged.
    pub fn bytes(&self) -> Result<Bytes, String> {
        match self {
            Self::Json(json) => Ok(Bytes::copy_from_slice(json.get().as_bytes())),
            Self::Text(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            Self::Base64(text) => {
                let bytes = STANDARD.decode(text).map_err(|why| format!("base64: {why}"))?;
                Ok(bytes.into())
            }
        }
    }
}

/// As bytes: in which form they are written is nobody's concern.
impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}
