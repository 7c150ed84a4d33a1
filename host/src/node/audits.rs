//! Audits of what is stored: this node's part, and all parts together.

use super::{audit_report::AuditReport, *};
use crate::{
    operation::Describe,
    replay::{Job, Parts},
    state::rows::WholeSlots,
};

/// The audits of a node, the latest last.
pub(super) struct Audits {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Of all of them.
    pub(super) threads: Arc<Semaphore>,
}

impl Default for Audits {
    fn default() -> Self {
        let threads = limits::replay_threads(crate::thread::processors());
        let threads = Arc::new(Semaphore::new(threads));
        Self { jobs: Mutex::default(), threads }
    }
}

impl Audits {
    fn get(&self, ask: &AuditAsk) -> Option<Arc<Job>> {
        let jobs = self.jobs.lock();
        jobs.iter().find(|job| job.id == ask.id && *job.service() == ask.service).cloned()
    }

    /// One of a service runs at a time: a new one ends those before it.
    fn add(&self, job: Arc<Job>) {
        let mut jobs = self.jobs.lock();
        for other in jobs.iter().filter(|other| other.service() == job.service()) {
            other.cancel();
        }
        jobs.push_back(job);
        while jobs.len() > limits::AUDITS_KEPT_MAX {
            let over = jobs.iter().position(|job| !job.is_running()).unwrap_or(0);
            if let Some(over) = jobs.remove(over) {
                over.cancel();
            }
        }
    }

    /// A permit a thread, of all that run histories again.
    pub fn threads(&self) -> Arc<Semaphore> {
        self.threads.clone()
    }

    pub fn stop(&self) {
        self.jobs.lock().iter().for_each(|job| job.cancel());
    }
}

impl Node {
    /// Begins an audit on all nodes.
    ///
    /// # Errors
    /// `service-not-found`, `session-not-found`, `request-invalid`, and errors of the store.
    pub async fn start_audit(
        &self,
        service: &ServiceName,
        spec: AuditSpec,
    ) -> Result<AuditReport, Error> {
        spec.check()?;
        self.context.catalogue.require(service)?;
        if let Some(session) = &spec.session {
            let key = SessionKey { service: service.clone(), session: session.clone() };
            self.call(Describe { key, consistency: Consistency::Current }).await?;
        }
        let mut sessions_of_all = 0;
        if spec.sample.is_some() && self.cluster.is_some() {
            // Not by reading heads: one that is damaged would end its node.
            sessions_of_all = self.stored_sessions(service).await?;
        }
        let ask = AuditAsk { id: crate::random::hex_id(), service: service.clone() };
        let own = self.begin_audit(ask.clone(), spec.clone(), sessions_of_all);
        let others =
            ControlRequest::StartAudit { ask: ask.clone(), spec: spec.clone(), sessions_of_all };
        let (own, others) = tokio::join!(own, self.ask_others(others));
        Ok(self.audit_report(&ask, spec.session.is_some(), own?, others))
    }

    /// How far an audit is, on all nodes.
    ///
    /// # Errors
    /// `audit-not-found`: no node knows it (any more).
    pub async fn audit_of(&self, service: &ServiceName, id: &str) -> Result<AuditReport, Error> {
        let ask = AuditAsk { id: id.to_owned(), service: service.clone() };
        self.asked_audit(ask.clone(), ControlRequest::Audit { ask }).await
    }

    /// Ends an audit, on all nodes.
    ///
    /// # Errors
    /// As [`Node::audit_of`].
    pub async fn cancel_audit(
        &self,
        service: &ServiceName,
        id: &str,
    ) -> Result<AuditReport, Error> {
        let ask = AuditAsk { id: id.to_owned(), service: service.clone() };
        if let Some(job) = self.audits.get(&ask) {
            job.cancel();
        }
        self.asked_audit(ask.clone(), ControlRequest::CancelAudit { ask }).await
    }

    async fn asked_audit(
        &self,
        ask: AuditAsk,
        request: ControlRequest,
    ) -> Result<AuditReport, Error> {
        let others = self.ask_others(request).await;
        let job = self.audits.get(&ask);
        let is_known = job.is_some()
            || others
                .iter()
                .any(|(_, answer)| matches!(answer, Ok(ControlResponse::Audit(Some(_)))));
        if !is_known {
            let why = format!(
                "no node knows audit {:?} of {}: it may be one of long ago",
                ask.id, ask.service
            );
            return Err(Error::new(Code::AuditNotFound, why));
        }
        let own = job.map(|job| job.share());
        let of_one = own.as_ref().is_some_and(|own| own.of_one);
        Ok(self.audit_report(&ask, of_one, own, others))
    }

    async fn ask_others(
        &self,
        ask: ControlRequest,
    ) -> Vec<(Arc<str>, Result<ControlResponse, Error>)> {
        match &self.cluster {
            Some(cluster) => cluster.ask_all_within(&ask, limits::AUDIT_WAIT).await,
            None => Vec::new(),
        }
    }

    fn audit_report(
        &self,
        ask: &AuditAsk,
        of_one: bool,
        own: Option<AuditShare>,
        others: Vec<(Arc<str>, Result<ControlResponse, Error>)>,
    ) -> AuditReport {
        let mut shares: Vec<_> = own.into_iter().collect();
        let mut silent = Vec::new();
        for (node, answer) in others {
            match answer {
                Ok(ControlResponse::Audit(share)) => shares.extend(share.map(|share| *share)),
                Ok(_) => {}
                Err(error) => {
                    silent.push(SilentNode { node: node.to_string(), why: error.detail.into() });
                }
            }
        }
        let of_one = of_one || shares.iter().any(|share| share.of_one);
        let slots = (!of_one).then(|| self.router.slot_count());
        AuditReport::new(ask.id.clone(), ask.service.clone(), slots, shares, silent)
    }

    /// Begins this node's part: what its slots have acknowledged is in the store then.
    pub(super) fn begin_audit(
        &self,
        ask: AuditAsk,
        spec: AuditSpec,
        sessions_of_all: u64,
    ) -> impl Future<Output = Result<Option<AuditShare>, Error>> + Send + use<> {
        let AuditAsk { id, service } = ask;
        let mut slots: Vec<SlotId> = match &self.cluster {
            Some(cluster) => cluster.here().collect(),
            None => (0..self.router.slot_count()).collect(),
        };
        if let Some(session) = &spec.session {
            let key = SessionKey { service: service.clone(), session: session.clone() };
            let slot = self.router.slot_of(&key);
            slots.retain(|own| *own == slot);
        }
        let (router, context, audits) =
            (self.router.clone(), self.context.clone(), self.audits.clone());
        let store: Arc<dyn WholeSlots> = self.data_dir.state();
        let node = self.name.clone();
        async move {
            spec.check()?;
            session_check::flush(&router, &slots).await;
            let parts = Parts {
                node,
                service,
                catalogue: context.catalogue.clone(),
                plugins: context.plugins.clone(),
                store,
                slots,
                sessions_of_all,
                threads: audits.threads.clone(),
            };
            let job = Job::start(id, spec, parts);
            audits.add(job.clone());
            Ok(Some(job.share()))
        }
    }

    pub(super) fn own_audit(&self, ask: &AuditAsk, cancel: bool) -> Option<AuditShare> {
        let job = self.audits.get(ask)?;
        if cancel {
            job.cancel();
        }
        Some(job.share())
    }
}
