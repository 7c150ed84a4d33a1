//! What a node asks of a peer, and what it answers.

use super::SlotInfo;
use crate::{
    log::{Position, Term},
    message::{self, Incoming, Purpose},
    names::SessionKey,
    operation::{self, Forwarded, Operation, operations},
    operator,
};
use bytes::Bytes;
use std::sync::Arc;

/// An operation as a request, and its answer as a response.
pub trait Callable: Forwarded {
    fn request(self) -> Request;
    fn response(answer: Self::Answer) -> Response;
    /// `None`: it answers something else.
    fn answer(response: Response) -> Option<Self::Answer>;
}

/// What an operation's answer is as a response.
trait Responds: Sized {
    fn into_response(self) -> Response;
    fn of(response: Response) -> Option<Self>;
}

macro_rules! requests {
    (
        forwarded { $($Op:ident,)* }
        other { $($other:tt)* }
        answers { $($Variant:ident($Answer:ty),)* }
        boxed { $($Boxed:ident($Large:ty),)* }
    ) => {
        /// What a node asks of a peer.
        pub enum Request {
            Message { key: SessionKey, message: Incoming, lane: u64 },
            $($Op(operation::$Op),)*
            /// Of the slots that the peer has.
            Slots,
            /// An encoded request of `cluster`: moves, drains, what a node believes.
            Control(Bytes),
        }

        impl Request {
            /// Changes nothing, so that it can be given up at any time.
            pub(super) fn is_read(&self) -> bool {
                match self {
                    $(Self::$Op(_) => operation::$Op::PURPOSE == Purpose::Read,)*
                    Self::Slots => true,
                    Self::Message { .. } | Self::Control(_) => false,
                }
            }
        }

        /// What a peer answers.
        pub enum Response {
            $($Variant($Answer),)*
            $($Boxed(Box<$Large>),)*
            Slots(Vec<SlotInfo>),
            Control(Bytes),
            /// The peer does not own the slot; `owner` does, as far as it knows.
            NotOwner { owner: Option<Arc<str>>, term: Term, position: Position },
        }

        $(impl Callable for operation::$Op {
            fn request(self) -> Request {
                Request::$Op(self)
            }
            fn response(answer: Self::Answer) -> Response {
                answer.into_response()
            }
            fn answer(response: Response) -> Option<Self::Answer> {
                Responds::of(response)
            }
        })*

        $(impl Responds for $Answer {
            fn into_response(self) -> Response {
                Response::$Variant(self)
            }
            fn of(response: Response) -> Option<Self> {
                match response {
                    Response::$Variant(answer) => Some(answer),
                    _ => None,
                }
            }
        })*

        $(impl Responds for $Large {
            fn into_response(self) -> Response {
                Response::$Boxed(Box::new(self))
            }
            fn of(response: Response) -> Option<Self> {
                match response {
                    Response::$Boxed(answer) => Some(*answer),
                    _ => None,
                }
            }
        })*
    };
}
operations!(requests);
