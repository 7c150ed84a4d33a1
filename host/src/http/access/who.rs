//! Who has been found to ask, and what a connection keeps of it.

use super::super::{connection::ConnShared, params};
use crate::{
    clock::now_ms,
    error::{Code, Error},
    message::Client,
};
use slotd_access::{Identity, Kind, Sender};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Who asks. Valid for one epoch of what decides.
#[derive(Clone)]
pub(in super::super) struct Who {
    epoch: u64,
    /// What was shown, to find out again who it is after a change.
    bearer: Option<Box<[u8]>>,
    certificate: Option<Arc<str>>,
    identity: Identity,
    /// Root, or nobody on a listener that is open.
    all: bool,
    client: Option<Arc<Client>>,
}

/// In whose name a message is sent.
#[derive(Clone, Default)]
pub(in super::super) struct Admitted {
    /// For its handler.
    pub(in super::super) client: Option<Arc<Client>>,
    sender: Named,
}

#[derive(Clone, Default)]
enum Named {
    /// The client says who it is.
    #[default]
    ByClient,
    Subject(Arc<str>),
    /// It has to be a subject, and there is none.
    Nobody,
}

impl Who {
    pub(super) fn new(
        epoch: u64,
        bearer: Option<&[u8]>,
        certificate: Option<&Arc<str>>,
        identity: Identity,
        open: bool,
    ) -> Self {
        let all = match identity.kind {
            Kind::Root => true,
            Kind::Anyone => open,
            _ => false,
        };
        let (bearer, certificate) = (bearer.map(Into::into), certificate.cloned());
        let client = client_of(&identity);
        Self { epoch, bearer, certificate, identity, all, client }
    }
    pub(in super::super) fn identity(&self) -> &Identity {
        &self.identity
    }
    pub(in super::super) fn epoch(&self) -> u64 {
        self.epoch
    }
    pub(super) fn bearer(&self) -> Option<&[u8]> {
        self.bearer.as_deref()
    }
    pub(super) fn certificate(&self) -> Option<&Arc<str>> {
        self.certificate.as_ref()
    }
    pub(super) fn may_do_all(&self) -> bool {
        self.all
    }
    /// Nothing was shown, or nothing that says who it is.
    pub(in super::super) fn is_nobody(&self) -> bool {
        matches!(self.identity.kind, Kind::Anyone)
    }
    /// A certificate was shown, and no token.
    pub(super) fn is_by_certificate(&self) -> bool {
        matches!(self.identity.kind, Kind::Certificate(_))
    }
    /// Who it was shown to be, as text; `None`: nothing was shown.
    pub(in super::super) fn text(&self) -> Option<String> {
        (!self.is_nobody()).then(|| self.identity.to_string())
    }
    /// For handlers of queries.
    pub(in super::super) fn client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }
    pub(super) fn is_over(&self) -> bool {
        self.identity.expires_ms.is_some_and(|at| at <= now_ms())
    }
    /// Whether it still is who shows this.
    fn is(&self, epoch: u64, bearer: Option<&[u8]>) -> bool {
        let same = match (&self.bearer, bearer) {
            (None, None) => true,
            // Behind a proxy, one connection may be of several clients.
            (Some(own), Some(shown)) => own.ct_eq(shown).into(),
            _ => false,
        };
        self.epoch == epoch && same && !self.is_over()
    }
    /// The listener's own token was shown.
    pub(super) fn is_of_listener(&self) -> bool {
        matches!(self.identity.kind, Kind::Root)
    }
    /// Whether both are the same subject, by whatever token.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.identity.kind.as_str() == other.identity.kind.as_str()
            && self.identity.subject == other.identity.subject
    }
    pub(super) fn admitted(&self, sender: Sender) -> Admitted {
        let sender = match (sender, &self.identity.subject) {
            (Sender::Client, _) => Named::ByClient,
            // A backend, which sends for its users.
            _ if matches!(self.identity.kind, Kind::Root) => Named::ByClient,
            (Sender::Subject, Some(subject)) => Named::Subject(subject.clone()),
            (Sender::Subject, None) => Named::Nobody,
        };
        Admitted { client: self.client.clone(), sender }
    }
}

/// Who handlers see.
fn client_of(identity: &Identity) -> Option<Arc<Client>> {
    if matches!(identity.kind, Kind::Anyone) {
        return None;
    }
    let claims = identity.claims.iter();
    Some(Arc::new(Client {
        kind: identity.kind.as_str().into(),
        subject: identity.subject.clone(),
        claims: claims.map(|(name, value)| (name.clone(), value.clone())).collect(),
    }))
}

impl Admitted {
    /// The sender of a message, of which the client says that it is `given`.
    ///
    /// # Errors
    /// `forbidden` if the client says that it is somebody else, or is nobody and has to be somebody.
    pub(in super::super) fn sender(&self, given: Option<String>) -> Result<Option<String>, Error> {
        let forbidden = |why: &'static str| super::counted(Error::new(Code::Forbidden, why));
        match (&self.sender, given) {
            (Named::ByClient, given) => Ok(given),
            (Named::Nobody, _) => Err(forbidden(
                "messages to this service are in the name of a token's subject, and none was shown",
            )),
            (Named::Subject(subject), Some(given)) if *given != **subject => {
                Err(forbidden("the sender is another one than the token's subject"))
            }
            (Named::Subject(_), Some(given)) => Ok(Some(given)),
            (Named::Subject(subject), None) => {
                params::check_sender(subject)?;
                Ok(Some(subject.to_string()))
            }
        }
    }
}

/// What a connection keeps.
pub(in super::super) struct Known {
    who: Arc<Who>,
    /// The last message's service, or service and session, as they stood in its path; and in whose name it was.
    message: Option<(Box<str>, Admitted)>,
}

impl ConnShared {
    /// Who has shown this last, if that is still who it is.
    pub(super) fn known(&self, epoch: u64, bearer: Option<&[u8]>) -> Option<Arc<Who>> {
        let known = self.known.lock();
        let who = &known.as_ref()?.who;
        who.is(epoch, bearer).then(|| who.clone())
    }
    pub(super) fn remember(&self, who: &Arc<Who>) {
        *self.known.lock() = Some(Box::new(Known { who: who.clone(), message: None }));
    }
    /// As [`Self::known`], for a message to a session.
    pub(super) fn known_message(
        &self,
        epoch: u64,
        bearer: Option<&[u8]>,
        (service, session): (&str, &str),
    ) -> Option<Admitted> {
        let known = self.known.lock();
        let Known { who, message } = &**known.as_ref()?;
        let (path, admitted) = message.as_ref()?;
        let rest = path.strip_prefix(service)?;
        let same = match who.all {
            true => rest.is_empty(),
            false => rest.strip_prefix('/') == Some(session),
        };
        (same && who.is(epoch, bearer)).then(|| admitted.clone())
    }
    pub(super) fn remember_message(
        &self,
        who: &Arc<Who>,
        (service, session): (&str, &str),
        admitted: &Admitted,
    ) {
        let path = match who.all {
            true => service.into(),
            false => format!("{service}/{session}").into(),
        };
        let message = Some((path, admitted.clone()));
        *self.known.lock() = Some(Box::new(Known { who: who.clone(), message }));
    }
    /// The connection becomes something that keeps by itself who it is of.
    pub(in super::super) fn forget(&self) {
        *self.known.lock() = None;
    }
}
