//! The model server of the demo, alone: for your own experiments with `plugins/context-window`.

use clap::Parser;
use slotd_tests::model_server::{self, ModelOptions, ModelServer};
use std::{net::SocketAddr, time::Duration};

/// Answers `POST /v1/chat/completions` with words that follow from the idempotency key, streamed if asked to; `GET /account`
/// says what it was asked
#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Requests at once; more get 429
    #[arg(long, value_name = "N", default_value_t = ModelOptions::default().at_once)]
    at_once: usize,
    /// Milliseconds between two words
    #[arg(long, value_name = "MS", default_value_t = 60)]
    pace: u64,
    /// Never fail
    #[arg(long)]
    no_troubles: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { listen, at_once, pace, no_troubles } = Args::parse();
    let pace = Duration::from_millis(pace);
    let options = ModelOptions { at_once, pace, troubles: !no_troubles, ..ModelOptions::default() };
    let server = ModelServer::start(listen, options).await?;
    println!("the model answers at {}", server.url());
    tokio::select! {
        ended = model_server::run(server) => match ended? {},
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}
