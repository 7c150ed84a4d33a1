//! Mail: an operation with the way back of its answer, as it waits in a slot's mailbox.

use crate::{
    error::Error,
    loads::{Admitted, Load},
    message::Purpose,
    names::ServiceName,
    operation::{self, Operation, operations},
    slot::{Reply, shell::Shell},
};
use std::{future::Future, sync::Arc};

/// What a slot does for an operation.
pub(super) trait Serve: Operation {
    /// Answers, or has the answer held back until what it rests on is durable.
    fn serve(
        self,
        shell: &mut Shell,
        reply: Reply<Self::Answer>,
    ) -> impl Future<Output = ()> + Send;
}

/// An operation that a slot can be asked.
pub trait Mailed: Operation {
    fn mail(self, reply: Reply<Self::Answer>) -> Mail;
}

macro_rules! mail {
    (
        forwarded { $($Forwarded:ident,)* }
        other { $($Other:ident,)* }
        $($rest:tt)*
    ) => {
        mail!($($Forwarded,)* $($Other,)*);
    };
    ($($Op:ident,)*) => {
        /// What waits in a slot's mailbox. An enum: a message takes no box on its way.
        pub enum Mail {
            $($Op(operation::$Op, Reply<<operation::$Op as Operation>::Answer>),)*
        }

        $(impl Mailed for operation::$Op {
            fn mail(self, reply: Reply<Self::Answer>) -> Mail {
                Mail::$Op(self, reply)
            }
        })*

        impl Mail {
            /// Answers with an error, whatever was asked.
            pub fn refuse(self, error: Error) {
                match self {
                    $(Self::$Op(_, reply) => drop(reply.send(Err(error))),)*
                }
            }

            pub fn service(&self) -> Option<&ServiceName> {
                match self {
                    $(Self::$Op(operation, _) => operation.service(),)*
                }
            }

            fn purpose(&self) -> Purpose {
                match self {
                    $(Self::$Op(..) => operation::$Op::PURPOSE,)*
                }
            }

            /// A read that whoever has the slot's state can answer at once.
            pub fn is_read(&self) -> bool {
                match self {
                    $(Self::$Op(..) => operation::$Op::FROM_COPY,)*
                }
            }

            /// Whoever brings it may take it where it is: it looks at one session, and at no page of it.
            pub(super) fn is_short(&self) -> bool {
                match self {
                    $(Self::$Op(..) => operation::$Op::AT_ONCE,)*
                }
            }

            fn calls_handler(&self) -> bool {
                match self {
                    $(Self::$Op(..) => operation::$Op::CALLS_HANDLER,)*
                }
            }

            /// A read that need not reflect all that was acknowledged before.
            pub fn may_be_stale(&self) -> bool {
                match self {
                    $(Self::$Op(operation, _) => operation.may_be_stale(),)*
                }
            }

            /// The asker is gone: nobody would see the answer, so nothing need be done.
            pub fn is_abandoned(&self) -> bool {
                match self {
                    $(Self::$Op(_, reply) => reply.is_closed(),)*
                }
            }
        }

        impl Shell {
            pub(super) async fn take(&mut self, mail: Mail) {
                match self.admit(&mail) {
                    Ok(()) => {}
                    Err(Some(error)) => return mail.refuse(error),
                    Err(None) => return,
                }
                self.core.begin_mail();
                match mail {
                    $(Mail::$Op(operation, reply) => operation.serve(self, reply).await,)*
                }
                self.core.end_mail();
                self.admitted = Admitted::default();
            }
        }
    };
}
operations!(mail);

impl Mail {
    /// On whose behalf it takes time on this node, where clients ask for it: it waits for its service's share of a busy
    /// node. Operators do not, and messages between sessions have waited where they came from.
    pub fn of_clients(&self) -> Option<&ServiceName> {
        match self {
            Self::Operate(..) | Self::ListEffects(..) | Self::ChangeEffect(..) => None,
            Self::Deliver(..) | Self::Reset(..) | Self::Purge(..) => None,
            _ => self.service(),
        }
    }

    /// It has been let through.
    pub fn let_in(&mut self, load: &Arc<Load>) {
        match self {
            Self::Message(message, _) => message.admitted = load.let_in(),
            // All else is over in a moment.
            _ => load.passed(),
        }
    }

    /// It is worth nothing later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Notify(..))
    }

    pub fn writes(&self) -> bool {
        self.purpose() != Purpose::Read
    }

    /// It writes, or calls a handler: more than a slot that has to end may still have time for.
    pub(super) fn takes_time(&self) -> bool {
        self.writes() || self.calls_handler()
    }
}
