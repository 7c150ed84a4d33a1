//! Reads every source, checks every value, and reports all problems.

mod checks;
mod kubernetes;

use self::{
    checks::{open_files, warnings},
    kubernetes::is_of_kubernetes,
};
use super::{
    Config, Listener,
    keys::{self, KEYS, Key, OTHER_ENV},
    spelling::nearest,
    value::{REDACTED, Secret},
};
use crate::{
    access,
    files::{self, ReadError},
    limits,
};
use slotd_access::{Fault, Policy};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// Read if it exists and neither `--config` nor `$SLOTD_CONFIG` names another.
pub const FILE_DEFAULT: &str = "slotd.toml";

/// A C plugin's folder has a file of the same name, with this table: it is not a node's
/// configuration.
const PLUGIN_TABLE: &str = "plugin";

/// Its file is read with the rest.
const ACCESS_FILE: &str = "access.file";

/// The sources of values. [`Sources::of_process`] uses the process's own.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The whole environment; only `SLOTD_*` counts.
    pub env: Vec<(OsString, OsString)>,
    /// Key and value.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        Self { file, env: std::env::vars_os().collect(), flags }
    }
}

/// The source of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Env(String),
    Flag(String),
}

impl Origin {
    /// Later sources win.
    fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File { .. } => 1,
            Origin::Env(_) => 2,
            Origin::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "${name}"),
            Origin::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// For every key that is not at its default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Allowed settings that deserve a warning.
    pub warnings: Vec<String>,
    /// Valid settings that may explain something.
    pub notes: Vec<String>,
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the unknown name.
    pub key: String,
    /// As given; `<redacted>` if it is or may be a secret. `None`: the value is not at fault.
    pub value: Option<String>,
    pub origin: Origin,
    /// The error, and what is allowed.
    pub message: String,
}

/// All errors; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a problem:")?,
            n => write!(f, "the configuration has {n} problems:")?,
        }
        for Problem { key, value, origin, message } in &self.0 {
            write!(f, "\n  {origin}: {key}")?;
            if let Some(value) = value {
                write!(f, " = {value}")?;
            }
            write!(f, "\n      {message}")?;
        }
        Ok(())
    }
}

/// # Errors
/// All errors in any source, also in values that a later source replaces.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut loading = Loading::default();
    let file = loading.file(sources);
    for (name, value) in &sources.env {
        loading.env(name, value);
    }
    for (key, value) in &sources.flags {
        if let Some(key) = keys::find(key) {
            loading.value(key, value, Origin::Flag(key.flag()));
        }
    }
    loading.read_tokens();
    loading.read_policy();
    loading.cross_checks();
    // The parser sorts a table's keys by name; people read the file from its top.
    loading.problems.sort_by_key(|p| match &p.origin {
        Origin::File { line, .. } => (1, *line),
        other => (other.rank(), 0),
    });
    match loading.problems.is_empty() {
        true => Ok(Loaded {
            warnings: [warnings(&loading.config), open_files(&loading, file.as_deref())].concat(),
            notes: loading.notes(),
            config: loading.config,
            origins: loading.origins,
            file,
        }),
        false => Err(Problems(loading.problems)),
    }
}

#[derive(Default)]
struct Loading {
    config: Config,
    origins: BTreeMap<&'static str, Origin>,
    problems: Vec<Problem>,
    /// Variables set by Kubernetes.
    foreign: Vec<String>,
    /// What `access.file` has, if it is good.
    policy: Policy,
}

impl Loading {
    fn notes(&self) -> Vec<String> {
        if self.foreign.is_empty() {
            return Vec::new();
        }
        let named = self.foreign.iter().take(FOREIGN_NAMED_MAX).map(String::as_str);
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match self.foreign.len().saturating_sub(FOREIGN_NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        vec![format!(
            "ignored variables set by Kubernetes for services: {named}{more} (to avoid them, set \
             enableServiceLinks: false)"
        )]
    }

    fn problem(
        &mut self,
        key: &str,
        value: Option<String>,
        origin: &Origin,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem {
            key: cut(key.into()),
            value: value.map(cut),
            origin: origin.clone(),
            message: message.into(),
        });
    }

    /// Sources are in order, so that a later one replaces an earlier one.
    fn value(&mut self, key: &'static Key, raw: &str, origin: Origin) {
        match key.kind.parse(raw) {
            Some(value) => {
                (key.set)(&mut self.config, value);
                self.origins.insert(key.name, origin);
            }
            None => {
                let shown = key.masked(raw).unwrap_or_else(|| format!("{raw:?}"));
                let problem =
                    key.kind.problem(raw).map_or_else(String::new, |it| format!("; {it}"));
                let allowed = key.kind.allowed();
                let allowed = format!("not allowed: it must be {allowed}{problem}");
                self.problem(key.name, Some(shown), &origin, allowed);
            }
        }
    }

    /// Reads the named or existing file; returns its path.
    fn file(&mut self, sources: &Sources) -> Option<PathBuf> {
        let named = |(name, value): &(OsString, OsString)| {
            (name == "SLOTD_CONFIG" && !value.is_empty()).then(|| PathBuf::from(value))
        };
        let (path, origin) = match (&sources.file, sources.env.iter().find_map(named)) {
            (Some(path), _) => (path.clone(), Some(Origin::Flag("config".into()))),
            (None, Some(path)) => (path, Some(Origin::Env("SLOTD_CONFIG".into()))),
            (None, None) => (PathBuf::from(FILE_DEFAULT), None),
        };
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(ReadError::Missing) if origin.is_none() => return None,
            Err(error) => {
                let origin = origin.unwrap_or(Origin::Default);
                let shown = format!("{:?}", path.display().to_string());
                self.problem("config", Some(shown), &origin, format!("the file {error}"));
                return Some(path);
            }
        };
        let lines = Lines { path: &path, text: &text };
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            // Not the error's own display: it quotes the line, which may contain a token.
            let origin = lines.origin(error.span().map_or(0, |span| span.start));
            self.problem("TOML", None, &origin, error.message());
        }
        self.table("", table.get_ref(), &lines);
        Some(path)
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, lines: &Lines<'_>) {
        for (name, value) in table {
            let origin = lines.origin(name.span().start);
            let full = format!("{prefix}{}", name.get_ref());
            let (key, value) = (keys::find(&full), value.get_ref());
            match (key, value) {
                (None, DeValue::Table(_)) if full == PLUGIN_TABLE => {}
                (None, DeValue::Table(inner)) if keys::TABLES.iter().any(|(t, _)| *t == full) => {
                    self.table(&format!("{full}."), inner, lines);
                }
                (None, _) => {
                    let names = KEYS.iter().map(|key| key.name);
                    let tables = keys::TABLES.iter().map(|(table, _)| *table);
                    let near = nearest(&full, names.chain(tables));
                    let message = match near {
                        Some(near) => format!("unknown key; did you mean {near}?"),
                        None => "unknown key; `slotd serve --help` lists all keys".into(),
                    };
                    let shown = scalar(value).map(|(_, raw)| format!("{raw:?}"));
                    let shown = shown.map(|raw| redact_unknown(&full, near, raw));
                    self.problem(&full, shown, &origin, message);
                }
                (Some(key), value) => match scalar(value) {
                    Some((kind, raw)) if key.kind.toml_types().contains(&kind) => {
                        self.value(key, &raw, origin);
                    }
                    other => {
                        let shown = other
                            .map(|(_, raw)| key.masked(&raw).unwrap_or_else(|| format!("{raw:?}")));
                        let shown = if key.is_secret() { Some(REDACTED.into()) } else { shown };
                        let message = format!(
                            "not allowed: it is of type {}, and must be {} (TOML type {})",
                            value.type_str(),
                            key.kind.allowed(),
                            key.kind.toml_types().join(" or ")
                        );
                        self.problem(key.name, shown, &origin, message);
                    }
                },
            }
        }
    }

    fn env(&mut self, name: &OsString, value: &OsString) {
        let shown = name.to_string_lossy();
        if !shown.starts_with("SLOTD_") || is_foreign(&shown) {
            return;
        }
        if is_of_kubernetes(&shown, &value.to_string_lossy())
            && !KEYS.iter().any(|key| *name == *key.env())
        {
            self.foreign.push(cut(shown.into_owned()));
            return;
        }
        let origin = Origin::Env(shown.to_string());
        let key = KEYS.iter().copied().find(|key| *name == *key.env());
        match (key, value.to_str()) {
            // Set to an empty value: the same as unset.
            (Some(_), Some("")) => {}
            (Some(key), Some(value)) => self.value(key, value, origin),
            (Some(key), None) => {
                self.problem(key.name, None, &origin, "not allowed: it is not UTF-8");
            }
            (None, _) if OTHER_ENV.iter().any(|(known, _)| *name == **known) => {}
            (None, value) => {
                let known: Vec<String> = KEYS.iter().map(|key| key.env()).collect();
                let others = OTHER_ENV.iter().map(|(name, _)| *name);
                let near = nearest(&shown, known.iter().map(String::as_str).chain(others));
                let message = match near {
                    Some(near) => format!("unknown variable; did you mean {near}?"),
                    None => "unknown variable; `slotd serve --help` lists the keys \
                        (SLOTD_API_LISTEN sets api.listen)"
                        .into(),
                };
                let value = value.map(|v| redact_unknown(&shown, near, format!("{v:?}")));
                self.problem(&shown, value, &origin, message);
            }
        }
    }

    /// The policy is read again when the node starts: here it is only checked.
    fn read_policy(&mut self) {
        let Some(path) = self.config.access_file.clone().map(PathBuf::from) else { return };
        match access::policy::read(&path) {
            Ok(policy) => self.policy = policy,
            Err(faults) => {
                let of_key = self.origins.get(ACCESS_FILE).cloned().unwrap_or(Origin::Default);
                for Fault { line, what } in faults {
                    let origin = line.map_or_else(
                        || of_key.clone(),
                        |line| Origin::File { path: path.clone(), line },
                    );
                    self.problem(ACCESS_FILE, None, &origin, what);
                }
            }
        }
    }

    fn read_tokens(&mut self) {
        for (token_key, file_key) in [
            ("api.token", "api.token_file"),
            ("admin.token", "admin.token_file"),
            ("cluster.secret", "cluster.secret_file"),
        ] {
            let Some(file_origin) = self.origins.get(file_key).cloned() else { continue };
            if let Some(token_origin) = self.origins.get(token_key) {
                match token_origin.rank().cmp(&file_origin.rank()) {
                    std::cmp::Ordering::Greater => continue,
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => {
                        let message = format!("both this and {token_key} are set; use one of them");
                        self.problem(file_key, None, &file_origin, message);
                        continue;
                    }
                }
            }
            let (token, path) = secret(&mut self.config, token_key);
            let Some(path) = path.clone() else { continue };
            match read_small(Path::new(&path)) {
                Ok(text) => match Secret::parse(text.trim_end_matches(['\r', '\n'])) {
                    Some(secret) => {
                        *token = Some(secret);
                        self.origins.insert(token_key, file_origin);
                    }
                    None => {
                        let allowed = super::value::Kind::Secret.allowed();
                        let message =
                            format!("the file's content is not a token: it must be {allowed}");
                        self.problem(file_key, Some(format!("{path:?}")), &file_origin, message);
                    }
                },
                Err(error) => {
                    let message = format!("the file {error}");
                    self.problem(file_key, Some(format!("{path:?}")), &file_origin, message);
                }
            }
        }
    }
}

/// A wrong value may also be long.
fn cut(text: String) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn listener<'a>(config: &'a mut Config, key: &str) -> &'a mut Listener {
    if key.starts_with("admin.") { &mut config.admin } else { &mut config.api }
}

/// A secret and the file that may contain it.
fn secret<'a>(config: &'a mut Config, key: &str) -> (&'a mut Option<Secret>, &'a Option<String>) {
    if key.starts_with("cluster.") {
        return (&mut config.cluster.secret, &config.cluster.secret_file);
    }
    let listener = listener(config, key);
    (&mut listener.token, &listener.token_file)
}

/// A misspelt token is still a token.
fn redact_unknown(name: &str, near: Option<&str>, shown: String) -> String {
    let smells = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["tok", "secret", "pass", "auth", "cred"].iter().any(|part| name.contains(part))
    };
    let secret = smells(name) || near.is_some_and(smells);
    if secret { REDACTED.into() } else { shown }
}

/// The project's own tests and benchmarks use further variables.
fn is_foreign(name: &str) -> bool {
    ["SLOTD_TEST_", "SLOTD_BENCH_"].iter().any(|prefix| name.starts_with(prefix))
}

/// How many variables of Kubernetes are named; of more, only the count.
const FOREIGN_NAMED_MAX: usize = 4;

/// The TOML type and text of a value that is neither array nor table.
fn scalar(value: &DeValue<'_>) -> Option<(&'static str, String)> {
    Some(match value {
        DeValue::String(text) => ("string", text.to_string()),
        DeValue::Boolean(on) => ("boolean", on.to_string()),
        DeValue::Integer(n) => {
            let number = i128::from_str_radix(n.as_str(), n.radix());
            ("integer", number.map_or_else(|_| n.as_str().into(), |n| n.to_string()))
        }
        DeValue::Float(n) => ("float", n.as_str().into()),
        DeValue::Datetime(time) => ("datetime", time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
}
impl Lines<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        Origin::File { path: self.path.into(), line }
    }
}

/// Whatever it is: a pipe, or nothing at all.
fn read_small(path: &Path) -> Result<String, ReadError> {
    let bytes = files::read_from(std::fs::File::open(path)?, limits::CONFIG_FILE_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|_| ReadError::NotText)
}
