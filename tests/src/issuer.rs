//! An OpenID Connect issuer: a discovery document, keys that change, and tokens that it signs.

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Dropping it ends it.
pub struct Issuer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// What is published; the last one signs.
    keys: Mutex<Vec<Arc<Key>>>,
    made: AtomicUsize,
    asked: AtomicUsize,
}

struct Key {
    id: String,
    pair: Ed25519KeyPair,
}

impl Issuer {
    /// On loopback, with one key.
    ///
    /// # Errors
    /// It can't listen, or the system has no random numbers.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (serves, url) = (shared.clone(), format!("http://{address}"));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // One that gives up is no concern of the others.
                let _ = serves.answer(stream, &url).await;
            }
        });
        let issuer = Self { address, shared, task };
        issuer.publish()?;
        Ok(issuer)
    }

    /// What its tokens have as their `iss`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Relaxed)
    }

    /// Publishes one more key, with which it does not sign yet.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn publish(&self) -> anyhow::Result<()> {
        let id = format!("key-{}", self.shared.made.fetch_add(1, Relaxed));
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .ok()
            .context("no random numbers")?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).ok().context("no key")?;
        self.shared.lock().push(Arc::new(Key { id, pair }));
        Ok(())
    }

    /// Withdraws the oldest key.
    pub fn withdraw(&self) {
        let mut keys = self.shared.lock();
        if keys.len() > 1 {
            keys.remove(0);
        }
    }

    /// A token, signed by the oldest key, or by the newest.
    ///
    /// # Errors
    /// It has no key.
    pub fn sign(&self, claims: &Value, newest: bool) -> anyhow::Result<String> {
        let keys = self.shared.lock();
        let key = if newest { keys.last() } else { keys.first() };
        let key = key.context("no key")?;
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": key.id});
        let [header, claims] = [&header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(key.pair.sign(signed.as_bytes()));
        Ok(format!("{signed}.{signature}"))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Key>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, mut stream: TcpStream, url: &str) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let body = if head.starts_with("GET /.well-known/openid-configuration ") {
            json!({"issuer": url, "jwks_uri": format!("{url}/keys")})
        } else {
            self.asked.fetch_add(1, Relaxed);
            let keys = self.lock();
            let all = keys.iter().map(|key| {
                let public = URL_SAFE_NO_PAD.encode(key.pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": key.id, "x": public})
            });
            json!({ "keys": all.collect::<Vec<_>>() })
        };
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }
}
