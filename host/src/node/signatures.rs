//! Signatures of components: nothing is deployed that the policy wants signed and that is not.

use super::*;
use crate::{
    plugin::Digest,
    service::Signer,
    signing::{Component, DeployKey, DeployKeys},
};

impl Node {
    /// Sets who may sign what is deployed, from now on.
    pub fn set_deploy_keys(&self, keys: Arc<DeployKeys>) {
        *self.deploy_keys.write() = Some(keys);
    }

    /// `None`: what is deployed to the service need not be signed.
    fn deploy_keys(&self, service: &ServiceName) -> Option<Vec<DeployKey>> {
        let keys = self.deploy_keys.read().clone()?;
        keys(service.as_str())
    }

    /// The key that has signed a component, of those that may. `None`: none has to.
    ///
    /// # Errors
    /// `signature-refused`.
    pub(super) async fn check_signature(
        &self,
        service: &ServiceName,
        component: &Bytes,
        signature: Option<&[u8]>,
    ) -> Result<Option<Signer>, Error> {
        let Some(keys) = self.deploy_keys(service) else { return Ok(None) };
        let Some(signature) = signature.map(<[u8]>::to_vec) else {
            return Err(refused(
                service,
                &keys,
                "the component is not signed: sign it with `slotd plugin sign FILE --key KEY`, \
                 which writes FILE.sig for `slotd deploy`",
            ));
        };
        let component = component.clone();
        let (keys, found) = crate::task::blocking(move || {
            let component = Component::new(&component);
            let found = keys.iter().find(|key| key.public.has_signed(&component, &signature));
            let found = found.map(signed_by);
            (keys, found)
        })
        .await
        .map_err(|_| Error::internal("the signature was not checked"))?;
        found.map(Some).ok_or_else(|| {
            refused(
                service,
                &keys,
                "none of these keys has signed this component: was it changed or built anew after \
                 it was signed? `slotd plugin verify FILE --key PUBLIC` checks it",
            )
        })
    }

    /// Whether a deployment may run again: if it was signed by a key that is allowed today, whatever
    /// its name, or none has to.
    ///
    /// # Errors
    /// `signature-refused`.
    pub(super) fn check_signed(
        &self,
        service: &ServiceName,
        deployment: &Deployment,
    ) -> Result<(), Error> {
        let Some(keys) = self.deploy_keys(service) else { return Ok(()) };
        let signer = deployment.signer.as_ref();
        let by = |key: &DeployKey| {
            signer.is_some_and(|signer| signer.fingerprint.0 == key.public.fingerprint())
        };
        if keys.iter().any(by) {
            return Ok(());
        }
        let why = match signer {
            Some(Signer { key, .. }) => format!("its key {key} is not allowed any more"),
            None => "it was deployed without a signature".to_owned(),
        };
        Err(refused(
            service,
            &keys,
            &format!(
                "{} can't run again: {why}. Deploy its component with a signature",
                deployment.label
            ),
        ))
    }
}

fn refused(service: &ServiceName, keys: &[DeployKey], why: &str) -> Error {
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Error::new(
        Code::SignatureRefused,
        format!(
            "the policy wants what {service} runs to be signed by one of its keys ({names}); {why}"
        ),
    )
}

fn signed_by(key: &DeployKey) -> Signer {
    Signer { key: key.name.as_str().into(), fingerprint: Digest(key.public.fingerprint()) }
}
