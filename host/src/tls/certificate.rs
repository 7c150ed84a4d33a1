//! What certificates say: until when they are valid, and whom they name.

use crate::limits;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// When a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub until: i64,
}

impl Validity {
    /// Of a chain: when all of it is valid.
    ///
    /// # Errors
    /// A certificate can't be read.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut all = Self { from: i64::MIN, until: i64::MAX };
        for certificate in chain {
            let (_, parsed) = X509Certificate::from_der(certificate)
                .map_err(|e| format!("the certificate can't be read: {e}"))?;
            let validity = parsed.validity();
            all.from = all.from.max(validity.not_before.timestamp());
            all.until = all.until.min(validity.not_after.timestamp());
        }
        Ok(all)
    }

    /// Why it is not valid now.
    ///
    /// # Errors
    /// It has expired, or is not valid yet.
    pub fn check(self, now: i64) -> Result<(), String> {
        let Self { from, until } = self;
        if now > until {
            return Err(format!("the certificate expired on {}", date(until)));
        }
        if now < from {
            return Err(format!("the certificate is not valid before {}", date(from)));
        }
        Ok(())
    }

    /// A sentence, if it ends within [`limits::TLS_EXPIRY_WARN`].
    pub fn ends_soon(self, now: i64) -> Option<String> {
        let left = self.until - now;
        if left < 0 {
            return Some(format!("the certificate expired on {}", date(self.until)));
        }
        let soon = limits::TLS_EXPIRY_WARN.as_secs();
        let days = left / DAY_SECONDS;
        (left.unsigned_abs() < soon).then(|| {
            format!("the certificate expires on {}, in {days} days: renew it", date(self.until))
        })
    }
}

/// Of a day.
pub const DAY_SECONDS: i64 = 86_400;

/// Now, in seconds since 1970.
pub fn now() -> i64 {
    i64::try_from(crate::clock::now_ms() / 1_000).unwrap_or(i64::MAX)
}

fn date(seconds: i64) -> String {
    let time = x509_parser::time::ASN1Time::from_timestamp(seconds);
    time.map_or_else(|_| format!("second {seconds}"), |time| time.to_string())
}

/// Whom a client's certificate names: its first URI, else its first DNS name, else its first e-mail
/// address, else its common name. `None`: it names nobody.
pub fn name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        _ => None,
    };
    let mail = |name: &GeneralName<'_>| match name {
        GeneralName::RFC822Name(mail) => Some((*mail).to_owned()),
        _ => None,
    };
    let common = || {
        let name = parsed.subject().iter_common_name().next()?;
        name.as_str().ok().map(str::to_owned)
    };
    let found = names.iter().find_map(uri);
    let found = found.or_else(|| names.iter().find_map(dns));
    let found = found.or_else(|| names.iter().find_map(mail)).or_else(common)?;
    bounded(&found)
}

/// As it is, or not at all: what is cut or left out could make it another's.
fn bounded(name: &str) -> Option<Arc<str>> {
    let fits = (1..=limits::CERTIFICATE_NAME_BYTES_MAX).contains(&name.len());
    let printable = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
    let printable = name.chars().all(printable) && name.trim() == name;
    (fits && printable).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    /// Rules are written for these names: another choice would be another's rights.
    #[test]
    fn a_client_has_the_first_of_its_names() {
        let uri = || SanType::URI("spiffe://x/ann".try_into().unwrap());
        let dns = || SanType::DnsName("ann.example.com".try_into().unwrap());
        let mail = || SanType::Rfc822Name("ann@example.com".try_into().unwrap());
        for (names, expected) in [
            (vec![mail(), dns(), uri()], Some("spiffe://x/ann")),
            (vec![mail(), dns()], Some("ann.example.com")),
            (vec![mail()], Some("ann@example.com")),
            (vec![], Some("ann")),
        ] {
            let shown = certificate(|params| {
                params.subject_alt_names = names;
                params.distinguished_name.push(DnType::CommonName, "ann");
            });
            assert_eq!(name(&shown).as_deref(), expected);
        }
        // Not one that is like another's once it is printed or cut.
        for bad in ["a\u{200b}nn", " ann", "ann\0", "", &"a".repeat(300)] {
            let shown = certificate(|params| {
                params.distinguished_name.push(DnType::CommonName, bad);
            });
            assert_eq!(name(&shown), None, "{bad:?}");
        }
        assert_eq!(name(&certificate(|_| {})), None);
    }

    /// A certificate that nobody renews stops every client on one day.
    #[test]
    fn what_expires_soon_is_told() {
        const DAY: i64 = 86_400;
        let validity = Validity { from: 100 * DAY, until: 200 * DAY };
        assert_eq!(validity.ends_soon(185 * DAY), None);
        let told = validity.ends_soon(190 * DAY).unwrap();
        assert!(told.contains("in 10 days"), "{told}");
        assert!(validity.ends_soon(201 * DAY).unwrap().contains("expired on"));
        assert!(validity.check(150 * DAY).is_ok());
        assert!(validity.check(99 * DAY).unwrap_err().contains("not valid before"));
        assert!(validity.check(201 * DAY).is_err());
        let chain = [
            certificate(|params| params.not_after = rcgen::date_time_ymd(2040, 1, 1)),
            certificate(|params| params.not_after = rcgen::date_time_ymd(2030, 1, 1)),
        ];
        let until = rcgen::date_time_ymd(2030, 1, 1).unix_timestamp();
        assert_eq!(Validity::of(&chain).unwrap().until, until);
    }
}
