//! The arguments of all client commands: where the node is, its token, how long to wait.

use crate::{
    cli::{
        client::{ADMIN, API, Client},
        exit::CliError,
    },
    config::{Kind, Value},
    limits,
    tls::ClientFiles,
};
use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct ApiArgs {
    /// The URL of the node's API
    #[arg(long, env = "SLOTD_URL", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    #[arg(hide_env_values = true)]
    pub url: String,
    /// The API's bearer token
    #[arg(long, env = "SLOTD_API_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct AdminArgs {
    #[command(flatten)]
    pub admin: AdminOnlyArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct AdminOnlyArgs {
    /// The URL of the node's admin API
    #[arg(long, env = "SLOTD_ADMIN_URL", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:7071", hide_env_values = true)]
    pub admin_url: String,
    /// The admin API's bearer token
    #[arg(long, env = "SLOTD_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct TlsArgs {
    /// The authorities that certificates of https:// URLs must have [default: the system's]
    #[arg(long, env = "SLOTD_CA", value_name = "FILE", hide_env_values = true)]
    #[arg(value_parser = path())]
    pub ca: Option<PathBuf>,
    /// A client certificate to show, for an admin API that accepts them
    #[arg(long, env = "SLOTD_CERT", value_name = "FILE", hide_env_values = true)]
    #[arg(value_parser = path())]
    pub cert: Option<PathBuf>,
    /// The client certificate's private key
    #[arg(long = "key", env = "SLOTD_KEY", value_name = "FILE", hide_env_values = true)]
    #[arg(value_parser = path())]
    pub client_key: Option<PathBuf>,
}

/// Also an empty one, as a variable may be.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl TlsArgs {
    fn files(&self) -> Result<ClientFiles, CliError> {
        // A variable that is set to nothing is not set.
        let given = |path: &Option<PathBuf>| path.clone().filter(|it| !it.as_os_str().is_empty());
        let certificate = match (given(&self.cert), given(&self.client_key)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                return Err(CliError::usage(
                    "a client certificate and its key belong together: --cert and --key, or $SLOTD_CERT and $SLOTD_KEY",
                ));
            }
        };
        Ok(ClientFiles { authority: given(&self.ca), certificate })
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct WaitArgs {
    /// How long to wait for an answer [default: 30s; 3m for a deploy]
    #[arg(long, env = "SLOTD_TIMEOUT", value_name = "TIME", hide_env_values = true)]
    #[arg(value_parser = timeout)]
    pub timeout: Option<Duration>,
}

pub(super) fn timeout(raw: &str) -> Result<Duration, String> {
    let kind =
        Kind::Duration { min: Duration::from_millis(1), max: Duration::from_secs(24 * 3_600) };
    match kind.parse(raw) {
        Some(Value::Duration(time)) => Ok(time),
        _ => Err(format!("it must be {}", kind.allowed())),
    }
}

fn given(token: &Option<String>) -> Option<String> {
    token.clone().filter(|token| !token.is_empty())
}

impl ApiArgs {
    /// # Errors
    /// The URL is invalid.
    pub fn client(&self) -> Result<Client, CliError> {
        let timeout = self.wait.timeout.unwrap_or(limits::CLIENT_TIMEOUT_DEFAULT);
        Client::new(&self.url, given(&self.token), timeout, API, &self.tls.files()?)
    }
}

impl AdminOnlyArgs {
    /// # Errors
    /// The URL is invalid.
    pub fn client(&self, timeout: Duration, tls: &TlsArgs) -> Result<Client, CliError> {
        let token = given(&self.admin_token);
        Client::new(&self.admin_url, token, timeout, ADMIN, &tls.files()?)
    }
}

impl AdminArgs {
    /// # Errors
    /// The URL is invalid.
    pub fn client(&self) -> Result<Client, CliError> {
        self.client_waiting(limits::CLIENT_TIMEOUT_DEFAULT)
    }
    /// With another default for how long to wait.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn client_waiting(&self, timeout: Duration) -> Result<Client, CliError> {
        self.admin.client(self.wait.timeout.unwrap_or(timeout), &self.tls)
    }
}
