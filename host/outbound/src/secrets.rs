//! Names and values of secrets: where they come from, how they get into a request, and how they are found in what comes
//! back.
//!
//! A value is in memory here and in the request that needs it, and nowhere else: not in `Debug`, not in errors, not
//! in what is returned. In an answer `[secret NAME]` stands in its place, in the forms in which a server commonly
//! says it again: as it is, percent-encoded, and within JSON. A server that turns it round says it unnoticed: a
//! secret is given to those who are trusted with it.

use crate::{
    limits,
    outcome::{Failure, Kind},
    redact::Finder,
};
use parking_lot::RwLock;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

const OPEN: &str = "{{secret:";
const CLOSE: &str = "}}";
/// What a secret keeps of itself within a URL: what needs no encoding anywhere.
const IN_URLS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where secrets come from. Both may be given; what the file says comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Lines of `NAME=value`, the value as it stands. Empty lines, and those that begin with `#`, say nothing.
    pub file: Option<PathBuf>,
    /// Environment variables that begin with this: the name is the rest.
    pub prefix: Option<String>,
}

/// Secrets of a source, which can be read again. Clones have the same.
#[derive(Clone)]
pub struct Secrets(Arc<Shared>);

struct Shared {
    source: Source,
    now: RwLock<Arc<Known>>,
}

/// The secrets that there are at a time. An attempt uses the same ones to its end.
#[derive(Default)]
pub(crate) struct Known {
    values: BTreeMap<String, String>,
    finder: Finder,
}

/// Why secrets could not be read. It names lines and names only.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("reading secrets from {0}: {1}")]
    File(PathBuf, std::io::Error),
    #[error("{0} is not UTF-8 text, or larger than 1 MiB")]
    NoText(PathBuf),
    #[error("line {1} of the secrets in {0}: {2}")]
    Line(PathBuf, usize, &'static str),
    #[error("the secret of the environment variable {0}: {1}")]
    Variable(String, &'static str),
    #[error("the secrets: {0}")]
    All(&'static str),
}

/// Whether a secret can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=limits::SECRET_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_good)
}

fn check(name: &str, value: &str) -> Result<(), &'static str> {
    if !is_name(name) {
        return Err("a name is 1 to 64 letters, digits and _");
    }
    if !(limits::SECRET_BYTES_MIN..=limits::SECRET_BYTES_MAX).contains(&value.len()) {
        return Err("a value has 8 to 4,096 bytes");
    }
    if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || value.trim() != value {
        return Err("a value is printable ASCII, without spaces around it");
    }
    Ok(())
}

impl Secrets {
    /// Reads a source. It reads a file: not for a thread that serves.
    ///
    /// # Errors
    /// If it can't be read, or has what is no secret.
    pub fn open(source: Source) -> Result<Self, SecretsError> {
        let known = Known::read(&source, std::env::vars_os())?;
        Ok(Self(Arc::new(Shared { source, now: RwLock::new(Arc::new(known)) })))
    }

    /// Reads the source again, and says how many secrets there are. Attempts that have begun go on with what they have.
    ///
    /// # Errors
    /// As [`Self::open`]; then those from before stay.
    pub fn reload(&self) -> Result<usize, SecretsError> {
        let known = Known::read(&self.0.source, std::env::vars_os())?;
        let count = known.values.len();
        *self.0.now.write() = Arc::new(known);
        Ok(count)
    }

    /// Their names, for operators.
    pub fn names(&self) -> Vec<String> {
        self.known().values.keys().cloned().collect()
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.now.read())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Secrets").field("names", &self.names()).finish_non_exhaustive()
    }
}

impl Known {
    fn read(
        source: &Source,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SecretsError> {
        let mut values = BTreeMap::new();
        if let Some(prefix) = &source.prefix {
            if prefix.is_empty() {
                return Err(SecretsError::All("an empty prefix would make all variables secrets"));
            }
            for (name, value) in variables {
                let Some(name) = name.to_str().and_then(|name| name.strip_prefix(prefix.as_str()))
                else {
                    continue;
                };
                let wrong = |reason| SecretsError::Variable(format!("{prefix}{name}"), reason);
                let value = value.into_string().map_err(|_| wrong("no text"))?;
                check(name, &value).map_err(wrong)?;
                values.insert(name.to_owned(), value);
            }
        }
        if let Some(path) = &source.file {
            of_file(path, &mut values)?;
        }
        Self::of(values)
    }

    fn of(values: BTreeMap<String, String>) -> Result<Self, SecretsError> {
        if values.len() > limits::SECRETS_MAX {
            return Err(SecretsError::All("there are more than 256"));
        }
        let mut forms = Vec::new();
        for (name, value) in &values {
            let replacement: Arc<str> = format!("[secret {name}]").into();
            let json = serde_json::Value::from(value.as_str()).to_string();
            let json = json.trim_start_matches('"').strip_suffix('"').unwrap_or(&json).to_owned();
            // Some escape what need not be.
            let escaped = json.replace('/', "\\/");
            for form in [value.clone(), in_url(value), json, escaped] {
                forms.push((form, name.clone(), Arc::clone(&replacement)));
            }
        }
        let finder =
            Finder::new(forms).map_err(|()| SecretsError::All("too much to search for"))?;
        Ok(Self { values, finder })
    }

    /// What finds them.
    pub(crate) const fn finder(&self) -> &Finder {
        &self.finder
    }

    /// A text of a request with its secrets in it, as they are or as a URL has them, if `may` lets each.
    pub(crate) fn fill(
        &self,
        text: &str,
        is_url: bool,
        may: impl Fn(&str) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(OPEN) {
            let named = after.split_once(CLOSE).filter(|(name, _)| is_name(name));
            let Some((name, after)) = named else {
                return Err(Failure::invalid(format!(
                    "{OPEN} is not followed by a name and {CLOSE}"
                )));
            };
            // Whether there is such a secret is not for everyone to know.
            may(name)?;
            let Some(value) = self.values.get(name) else {
                return Err(Failure::new(
                    Kind::SecretUnknown,
                    format!("there is no secret {name}"),
                ));
            };
            filled.push_str(before);
            if is_url {
                filled.push_str(&in_url(value));
            } else {
                filled.push_str(value);
            }
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// Whether a text of a request has a secret put in.
pub(crate) fn has_secret(text: &str) -> bool {
    text.contains(OPEN)
}

fn in_url(value: &str) -> String {
    utf8_percent_encode(value, IN_URLS).to_string()
}

fn of_file(path: &Path, values: &mut BTreeMap<String, String>) -> Result<(), SecretsError> {
    let failed = |error| SecretsError::File(path.to_owned(), error);
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limits::SECRET_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    let text = String::from_utf8(text).map_err(|_| SecretsError::NoText(path.to_owned()))?;
    if text.len() as u64 > limits::SECRET_FILE_BYTES_MAX {
        return Err(SecretsError::NoText(path.to_owned()));
    }
    let mut named = std::collections::BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |reason| SecretsError::Line(path.to_owned(), index + 1, reason);
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("not NAME=value"))?;
        check(name, value).map_err(wrong)?;
        if !named.insert(name) {
            return Err(wrong("duplicate name"));
        }
        values.insert(name.to_owned(), value.to_owned());
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write as _;

    pub(crate) fn known(values: &[(&str, &str)]) -> Known {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Known::of(values.iter().map(own).collect()).expect("secrets")
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("a file");
        file
    }

    #[test]
    fn secrets_are_put_in_where_the_text_names_them() {
        let known = known(&[("A", "a value/of+8"), ("B_2", "12345678")]);
        let fill = |text: &str, is_url| known.fill(text, is_url, |_| Ok(()));
        assert_eq!(fill("Bearer {{secret:A}}", false), Ok("Bearer a value/of+8".into()));
        assert_eq!(fill("{{secret:B_2}}{{secret:B_2}}!", false), Ok("1234567812345678!".into()));
        assert_eq!(fill("/x?k={{secret:A}}", true), Ok("/x?k=a%20value%2Fof%2B8".into()));
        assert_eq!(fill("no {{ secret", false), Ok("no {{ secret".into()));
        let kind = |text| fill(text, false).map_err(|failure| failure.kind);
        assert_eq!(kind("{{secret:C}}"), Err(Kind::SecretUnknown));
        assert_eq!(kind("{{secret:A"), Err(Kind::Invalid));
        assert_eq!(kind("{{secret:}}"), Err(Kind::Invalid));
        // Who may not have it does not learn whether it exists.
        let none = known.fill("{{secret:C}}", false, |_| Err(Failure::refused("no")));
        assert_eq!(none.map_err(|failure| failure.kind), Err(Kind::Refused));
    }

    #[test]
    fn a_file_is_read_and_read_again_and_the_old_ones_stay_if_it_is_wrong() {
        let file = file("# keys\n\nA=one=two=three\nB=12345678\n");
        let source = Source { file: Some(file.path().to_owned()), prefix: None };
        let secrets = Secrets::open(source).expect("secrets");
        let before = secrets.known();
        assert_eq!(before.values["A"], "one=two=three");
        assert_eq!(secrets.names(), ["A", "B"]);
        std::fs::write(file.path(), "A=another one\n").expect("a file");
        assert_eq!(secrets.reload().expect("secrets"), 1);
        assert_eq!(secrets.known().values["A"], "another one");
        assert_eq!(before.values["A"], "one=two=three");
        std::fs::write(file.path(), "A=short\n").expect("a file");
        let error = secrets.reload().expect_err("too short").to_string();
        assert!(error.contains("line 1") && !error.contains("short"), "{error}");
        assert_eq!(secrets.known().values["A"], "another one");
    }

    #[test]
    fn what_is_no_secret_is_said_without_its_value() {
        for text in [
            "hidden-value",
            "A B=hidden-value",
            "A=hidden\u{1}value",
            "A=hidden-value\nA=hidden-value",
            "=hidden-value",
            "A= hidden-value",
        ] {
            let file = file(text);
            let source = Source { file: Some(file.path().to_owned()), prefix: None };
            let error = Secrets::open(source).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
        }
    }

    #[test]
    fn variables_with_the_prefix_are_secrets_and_the_file_comes_first() {
        let file = file("B=of the file\n");
        let source = Source { file: Some(file.path().to_owned()), prefix: Some("X_".into()) };
        let variables = [("X_A", "of variables"), ("X_B", "of variables"), ("PATH", "/bin")];
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let known = Known::read(&source, variables).expect("secrets");
        let values: Vec<_> =
            known.values.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(values, [("A", "of variables"), ("B", "of the file")]);
        let all = Source { file: None, prefix: Some(String::new()) };
        assert!(Known::read(&all, std::iter::empty()).is_err());
    }

    #[test]
    fn debug_shows_names_only() {
        let file = file("A=hidden-value\n");
        let source = Source { file: Some(file.path().to_owned()), prefix: None };
        let shown = format!("{:?}", Secrets::open(source).expect("secrets"));
        assert!(shown.contains("\"A\"") && !shown.contains("hidden"), "{shown}");
    }
}
