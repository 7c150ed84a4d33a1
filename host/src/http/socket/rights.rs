//! What a socket may do, and for how long.

use super::{
    super::frames::{AuthFrame, Frame, Refused, renewed},
    End, Session, TEXT, code,
};
use crate::error::{Code, Error};
use slotd_access::Verb;
use tokio::time::Instant;

impl End {
    /// The token has ended, or what it allowed has.
    pub(super) fn is_of_rights(&self) -> bool {
        matches!(self, Self::Close(code::EXPIRED | code::FORBIDDEN, _))
    }
}

impl Session {
    /// Whether the socket may stay open. Where nothing has changed, it only compares.
    pub(super) async fn look(&mut self) -> Result<(), End> {
        let gate = self.api.gate();
        if !self.standing.is_old(gate) && !self.standing.is_over() {
            return Ok(());
        }
        // Boxed: an idle socket has no room for it.
        let looked = Box::pin(self.standing.look(gate, &self.key)).await;
        looked.map_err(|error| match error.code {
            Code::TokenExpired if self.standing.is_of_listener() => {
                End::Close(code::EXPIRED, "the listener's token was replaced")
            }
            Code::TokenExpired => End::Close(code::EXPIRED, "the token has expired"),
            _ => End::Close(code::FORBIDDEN, "this is no longer allowed"),
        })
    }

    /// Sets the timer for what is due first: this, a ping, or the token's end.
    pub(super) fn arm(&mut self, due: Option<Instant>) {
        let all = [Some(self.ping_at), due, self.standing.ends()];
        self.armed = all.into_iter().flatten().min().unwrap_or(self.ping_at);
        self.timer.as_mut().reset(self.armed);
    }

    /// A frame, if it may be sent; in the name in which it may.
    pub(super) fn admit(&self, frame: Frame) -> Result<Frame, Refused> {
        let may = |verb| self.standing.may(self.api.gate(), verb, &self.key);
        match frame {
            Frame::Send(mut frame) => {
                let admitted = self.standing.admitted();
                let sender =
                    may(Verb::Send).and_then(|()| admitted.sender(frame.message.sender.take()));
                frame.message.client = admitted.client;
                match sender {
                    Ok(sender) => frame.message.sender = sender,
                    Err(error) => return Err(Refused { id: Some(frame.id), error }),
                }
                Ok(Frame::Send(frame))
            }
            Frame::Notify(mut frame) => {
                let sender = may(Verb::Notify)
                    .and_then(|()| self.standing.admitted().sender(frame.sender.take()));
                match sender {
                    Ok(sender) => frame.sender = sender,
                    Err(error) => return Err(Refused { id: frame.id, error }),
                }
                Ok(Frame::Notify(frame))
            }
            frame @ (Frame::Auth(_) | Frame::Ping(_)) => Ok(frame),
        }
    }

    /// Goes on with another token. If it is not good, the old one stays.
    pub(super) async fn renew(&mut self, frame: AuthFrame) -> Result<(), End> {
        let AuthFrame { id, token } = frame;
        let gate = self.api.gate();
        let renewed = self.standing.renew(gate, &token, &self.key).await;
        match renewed {
            Ok(expires_ms) => self.renewed(expires_ms).await,
            Err(error) => self.not_renewed(id.as_deref(), &error).await,
        }
    }

    async fn renewed(&mut self, expires_ms: Option<u64>) -> Result<(), End> {
        self.arm(self.late_at);
        self.write(TEXT, renewed(expires_ms).as_bytes());
        self.drain().await
    }

    async fn not_renewed(&mut self, id: Option<&str>, error: &Error) -> Result<(), End> {
        self.refuse(id, error).await
    }
}
