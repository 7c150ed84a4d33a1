//! The slots' log on NATS JetStream.
