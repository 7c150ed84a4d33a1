//! The caller's side of a link, until both nodes have proven who they are.

use super::{
    grpc::{self, proof},
    handshake::{HandshakeError, Introduced, Own, word},
    outbox::Outbox,
    proto::kind,
    tls,
    transport::{Form, FramesIn, Pump, Transport, pumped},
};
use crate::{level, limits, peer::member::Member};
use futures_util::StreamExt as _;
use std::{io::ErrorKind, sync::Arc};
use tokio::{net::TcpStream, time::timeout};

/// A connection on which both sides have proven who they are.
pub(super) struct Opened {
    pub outbox: Arc<Outbox>,
    pub frames: FramesIn,
    pub pump: Pump,
    pub peer: Introduced,
    pub form: Form,
}

/// Connects to `peer`: encrypted, but for one that has proven to be too old for that. `known`: this
/// process of it is known to take encrypted links; `encrypts` is told of one that turns out to.
///
/// # Errors
/// Why there is no link.
pub(super) async fn open(
    own: &Own,
    peer: &str,
    member: &Member,
    known: bool,
    encrypts: impl FnOnce(u128),
) -> Result<Opened, String> {
    let able = own.options.newest >= level::ENCRYPTED;
    if own.options.level.get() >= level::ENCRYPTED || able && known {
        return dial(own, peer, member, Form::Tls).await;
    }
    let opened = dial(own, peer, member, Form::Grpc).await?;
    if !able || !opened.peer.encrypts() {
        return Ok(opened);
    }
    encrypts(opened.peer.instance);
    drop(opened);
    dial(own, peer, member, Form::Tls).await
}

async fn dial(own: &Own, peer: &str, member: &Member, form: Form) -> Result<Opened, String> {
    let address = member.peer;
    let stream = TcpStream::connect(address).await.map_err(|e| {
        if e.kind() == ErrorKind::ConnectionRefused {
            (own.options.refused)(member);
        }
        format!("{address}: {e}")
    })?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let outbox = Outbox::new();
    // An unencrypted link begins with it.
    let hello = proof::hello(own, &own.options.cluster);
    let transport = match form {
        Form::Tls => tls::connect(own, stream, &outbox).await,
        Form::Grpc => {
            outbox.urgent(word(kind::HELLO, &hello));
            let transport = grpc::connect(stream, address, &outbox).await;
            transport.map_err(HandshakeError::Closed)
        }
    };
    let failed = |failed: HandshakeError| {
        own.failed(address.ip(), &failed);
        failed.to_string()
    };
    let Transport { mut frames, mut pump, trust, certified } = transport.map_err(failed)?;
    let introducing = async {
        match form {
            Form::Tls => own.introduce(peer, &mut frames, &outbox, &certified).await,
            Form::Grpc => proof::introduce(own, peer, &mut frames, &outbox, &hello).await,
        }
    };
    let introduced = pumped(&mut pump, introducing).await;
    match introduced.unwrap_or_else(|why| Err(HandshakeError::Closed(why))) {
        Ok(peer) => {
            trust.grant();
            Ok(Opened { outbox, frames, pump, peer, form })
        }
        Err(refused) => {
            if let HandshakeError::Ours(refusal) = &refused {
                outbox.urgent(refusal.go_away());
                outbox.close();
                // Until it is read: the other side names the reason too.
                let answered = pumped(&mut pump, frames.next());
                let _ = timeout(limits::PEER_STOP_GRACE, answered).await;
            }
            Err(failed(refused))
        }
    }
}
