//! The files of captures, in a folder of the data directory.

use crate::{
    capture::{Capture, Kind},
    files::{self, For},
    limits,
    names::ServiceName,
    plugin::Digest,
    seal::{Keyring, key_of},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};
use utoipa::ToSchema;

/// The folder of the data directory.
const FOLDER: &str = "captures";
/// Of a file's name.
const ENDING: &str = "capture";
/// The first byte of a file that is sealed; one that is not begins with a brace.
const SEALED: u8 = 1;

/// A capture that a node has.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CaptureInfo {
    /// The node that has it.
    pub node: String,
    /// Its name there.
    pub name: String,
    pub service: String,
    pub session: String,
    /// The message.
    pub seq: u64,
    /// Why it was made: `trap`, `deadline`, `gate`.
    pub kind: String,
    /// The plugin version that handled the message, and its component.
    pub version: String,
    pub digest: String,
    /// Milliseconds since the Unix epoch.
    pub made_ms: u64,
    pub bytes: u64,
    /// What was said of it, in short; empty if its service redacts.
    pub what: String,
}

pub struct Store {
    dir: PathBuf,
    node: String,
    keys: Keyring,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By name, which begins with the time.
    files: BTreeMap<String, u64>,
    /// How many there are of a component and a kind, and will be.
    counts: HashMap<Of, usize>,
}

/// The component, as names have it, and the kind.
type Of = (String, String);

impl Known {
    fn insert(&mut self, name: String, bytes: u64) {
        self.files.insert(name, bytes);
    }

    fn uncount(&mut self, of: &Of) {
        if let Some(count) = self.counts.get_mut(of) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(of);
            }
        }
    }
}

impl Store {
    /// Those of a data directory. What was sealed with another key than the one in use is sealed anew. Blocks on the disk.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn open(data_dir: &std::path::Path, node: &str, keys: Keyring) -> io::Result<Self> {
        let dir = data_dir.join(FOLDER);
        let store = Self { dir, node: node.to_owned(), keys, known: Mutex::default() };
        let entries = match fs::read_dir(&store.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(store),
            entries => entries?,
        };
        let mut known = Known::default();
        for entry in entries {
            let entry = entry?;
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(&format!(".{ENDING}")));
            let Some((name, of)) = name.and_then(|name| Some((name, of_name(name)?))) else {
                continue;
            };
            *known.counts.entry(of).or_default() += 1;
            known.insert(name.to_owned(), entry.metadata()?.len());
        }
        let names: Vec<_> = known.files.keys().cloned().collect();
        *store.known.lock() = known;
        for name in names {
            if let Err(why) = store.seal_anew(&name) {
                tracing::warn!(name, "a capture can't be sealed anew: {why}");
            }
        }
        Ok(store)
    }

    /// Whether one more of this component and kind is wanted.
    pub fn wants(&self, digest: Digest, kind: &str) -> bool {
        let known = self.known.lock();
        let count = known.counts.get(&(digest.short(), kind.to_owned()));
        match count {
            Some(count) => *count < limits::CAPTURES_OF_A_KIND_MAX,
            None => known.counts.len() < limits::CAPTURE_KINDS_MAX,
        }
    }

    /// Has one counted that will come, so that others are not made meanwhile. `None`: there are enough.
    pub fn expect(&self, digest: Digest, kind: &str) -> Option<Expected<'_>> {
        if !self.wants(digest, kind) {
            return None;
        }
        let of = (digest.short(), kind.to_owned());
        *self.known.lock().counts.entry(of.clone()).or_default() += 1;
        Some(Expected { store: self, of: Some(of) })
    }

    /// Keeps one that somebody else has made, as a gate, if there are not enough of its kind. Gives its name. Blocks on the disk.
    ///
    /// # Errors
    /// It can't be written.
    #[cfg_attr(not(test), expect(dead_code, reason = "a gate's examples are kept with it"))]
    pub fn add(&self, capture: &Capture) -> Result<Option<String>, String> {
        let expected = self.expect(capture.component.digest, capture.because.kind.as_str());
        expected.map(|expected| expected.write(capture)).transpose()
    }

    /// Those of a service, or of all, the latest last. Blocks on the disk.
    pub fn list(&self, service: Option<&ServiceName>) -> Vec<CaptureInfo> {
        let names: Vec<_> = self.known.lock().files.keys().cloned().collect();
        let infos = names.into_iter().filter_map(|name| self.info(&name));
        let is_of = |info: &CaptureInfo| service.is_none_or(|it| it.as_str() == info.service);
        infos.filter(is_of).collect()
    }

    fn info(&self, name: &str) -> Option<CaptureInfo> {
        let text = self.get(name).ok()??;
        let capture = Capture::parse(&text).ok()?;
        let what = crate::text::cut(&capture.because.what, limits::DIFFERENCE_SHOWN_BYTES);
        Some(CaptureInfo {
            node: self.node.clone(),
            name: name.to_owned(),
            seq: capture.message.seq,
            kind: capture.because.kind.as_str().to_owned(),
            version: capture.component.version,
            digest: capture.component.digest.to_string(),
            made_ms: capture.made_ms,
            bytes: text.len() as u64,
            what: if capture.redacted.is_empty() { what.to_owned() } else { String::new() },
            service: capture.service,
            session: capture.session,
        })
    }

    /// One, as a file that is not sealed. Blocks on the disk.
    ///
    /// # Errors
    /// It can't be read.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        if !self.known.lock().files.contains_key(name) {
            return Ok(None);
        }
        let bytes = files::read(&self.path(name), limits::CAPTURE_FILE_BYTES_MAX);
        let bytes = bytes.map_err(|why| format!("capture {name} {why}"))?;
        match bytes.split_first() {
            Some((&SEALED, sealed)) => {
                let opened = self.keys.open(&place(name), sealed);
                opened.map(Some).map_err(|why| format!("capture {name}: {why}"))
            }
            _ => Ok(Some(bytes)),
        }
    }

    /// Removes one. `false`: there is none. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        let Some(of) = of_name(name) else { return Ok(false) };
        let mut known = self.known.lock();
        if known.files.remove(name).is_none() {
            return Ok(false);
        }
        known.uncount(&of);
        drop(known);
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(true),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.{ENDING}"))
    }

    fn write(&self, name: &str, text: &[u8]) -> Result<u64, String> {
        let mut sealed = vec![SEALED];
        let bytes = match self.keys.sealing() {
            Some(_) => {
                self.keys.seal(&place(name), text, &mut sealed)?;
                &sealed[..]
            }
            None => text,
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|why| why.to_string())?;
        files::replace(&self.path(name), bytes, For::Owner).map_err(|why| why.to_string())?;
        Ok(bytes.len() as u64)
    }

    fn seal_anew(&self, name: &str) -> Result<(), String> {
        let path = self.path(name);
        let bytes = files::read(&path, limits::CAPTURE_FILE_BYTES_MAX);
        let bytes = bytes.map_err(|why| why.to_string())?;
        let kept = match bytes.split_first() {
            Some((&SEALED, sealed)) => key_of(sealed),
            _ => None,
        };
        if kept == self.keys.sealing() {
            return Ok(());
        }
        let text = self.get(name)?.unwrap_or_default();
        self.write(name, &text).map(drop)
    }

    /// Removes the oldest ones that are too many.
    fn trim(&self) {
        loop {
            let oldest = {
                let known = self.known.lock();
                let bytes: u64 = known.files.values().sum();
                let is_over =
                    known.files.len() > limits::CAPTURES_MAX || bytes > limits::CAPTURES_BYTES_MAX;
                known.files.keys().next().filter(|_| is_over).cloned()
            };
            let Some(oldest) = oldest else { return };
            if let Err(error) = self.remove(&oldest) {
                tracing::warn!(name = oldest, "a capture can't be removed: {error}");
            }
        }
    }
}

/// One that is to come. Dropped, it does not come.
pub struct Expected<'a> {
    store: &'a Store,
    of: Option<Of>,
}

impl Expected<'_> {
    /// Gives its name. Blocks on the disk.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(mut self, capture: &Capture) -> Result<String, String> {
        let Some((digest, kind)) = self.of.clone() else { return Ok(String::new()) };
        let mark = crate::random::hex_id();
        let mark = mark.get(..8).unwrap_or_default();
        let name = format!("{:013}-{kind}-{digest}-{mark}", capture.made_ms);
        let text = capture.text()?;
        let most = limits::CAPTURE_KEPT_BYTES_MAX;
        if text.len() > most {
            return Err(format!("it has {} bytes; a capture that is kept has {most}", text.len()));
        }
        let bytes = self.store.write(&name, text.as_bytes())?;
        // It counts from now on for what it is.
        self.of = None;
        self.store.known.lock().insert(name.clone(), bytes);
        self.store.trim();
        Ok(name)
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        if let Some(of) = self.of.take() {
            self.store.known.lock().uncount(&of);
        }
    }
}

fn place(name: &str) -> [&[u8]; 2] {
    [b"capture", name.as_bytes()]
}

/// The component and the kind that a name has; `None`: it is none.
fn of_name(name: &str) -> Option<Of> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.len() > limits::CAPTURE_NAME_BYTES_MAX || !name.bytes().all(is_plain) {
        return None;
    }
    let mut parts = name.split('-');
    let (_time, kind) = (parts.next()?.parse::<u64>().ok()?, parts.next()?);
    let (digest, _mark) = (parts.next()?, parts.next()?);
    parts.next().is_none().then(|| (digest.to_owned(), kind.to_owned()))
}

/// What the kinds of captures that nodes make by themselves are called in slots.
pub fn kind_of(failure: &str) -> Option<Kind> {
    match failure {
        "trap" => Some(Kind::Trap),
        "deadline" => Some(Kind::Deadline),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        capture::{Captured, Component, OutcomeForm},
        log::record::Entry,
        names::SessionKey,
        replay_engine::Base,
        seal,
    };
    use bytes::Bytes;

    fn capture(made_ms: u64, component: &[u8]) -> Capture {
        let mut made = Capture::new(Captured {
            kind: Kind::Trap,
            what: "unreachable".into(),
            key: SessionKey::parse("s", "x").unwrap(),
            component: Component::new(Digest::of(component), "1.0.0", false),
            migrates_from: None,
            base: Base::default(),
            entry: Entry {
                seq: 1,
                id: None,
                sender: None,
                time_ms: 1,
                content_type: "text/plain".into(),
                body: Bytes::from_static(b"secret words"),
                reply_content_type: String::new(),
                reply: Bytes::new(),
                deployment: 1,
                events: Vec::new(),
                origin: None,
                caused: Vec::new(),
            },
            outcome: OutcomeForm::failure("trap", "unreachable"),
        });
        made.made_ms = made_ms;
        made
    }

    fn keyring(keys: &[&str]) -> Keyring {
        seal::parse(&keys.join("\n")).unwrap()
    }

    /// On a disk that leaves the house they would be what is not sealed; and a key that is let go must not be needed for
    /// them any more.
    #[test]
    fn captures_are_sealed_as_all_else_is_and_anew_with_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = [seal::generate().unwrap(), seal::generate().unwrap()];
        let clear = Store::open(dir.path(), "n", Keyring::default()).unwrap();
        let name = clear.add(&capture(1, b"c")).unwrap().unwrap();
        let on_disk = |store: &Store| fs::read(store.path(&name)).unwrap();
        let has_words = |bytes: &[u8]| bytes.windows(6).any(|part| part == b"secret");
        assert!(has_words(&on_disk(&clear)));
        let sealed = Store::open(dir.path(), "n", keyring(&[&first])).unwrap();
        assert!(!has_words(&on_disk(&sealed)), "it is sealed from the first start with a key on");
        assert!(has_words(&sealed.get(&name).unwrap().unwrap()));
        drop(Store::open(dir.path(), "n", keyring(&[&second, &first])).unwrap());
        let later = Store::open(dir.path(), "n", keyring(&[&second])).unwrap();
        assert!(has_words(&later.get(&name).unwrap().unwrap()), "the first key is not needed");
        let without = Store::open(dir.path(), "n", Keyring::default()).unwrap();
        assert!(without.get(&name).is_err(), "it is not damaged by who can't open it");
        assert_eq!(later.list(None).len(), 1);
    }

    /// Components that trap differ with each deploy: without an end in all, they fill the disk.
    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "n", Keyring::default()).unwrap();
        let most = limits::CAPTURES_MAX as u64;
        for n in 0..most + 2 {
            let component = (n / 3).to_le_bytes();
            assert!(store.add(&capture(n, &component)).unwrap().is_some(), "{n}");
        }
        let left = store.list(None);
        assert_eq!((left.len() as u64, left[0].made_ms), (most, 2));
        // Another start counts the same.
        let again = Store::open(dir.path(), "n", Keyring::default()).unwrap();
        let last = Digest::of(&((most + 1) / 3).to_le_bytes());
        let first = Digest::of(&0_u64.to_le_bytes());
        for store in [&store, &again] {
            assert!(store.wants(first, "trap"), "two of three have gone");
            assert!(store.wants(last, "trap"), "there is one of three");
        }
        assert!(again.add(&capture(9_999, &1_u64.to_le_bytes())).unwrap().is_none(), "enough");
        let expected = again.expect(Digest::of(b"new"), "trap");
        assert!(expected.is_some());
        drop(expected);
        assert_eq!(again.list(None).len() as u64, most);
    }

    /// A name is a part of a path.
    #[test]
    fn what_is_no_name_of_a_capture_is_not_looked_for() {
        for name in ["", "../x", "1-trap-abc", "1-trap-abc-d-e", "x-trap-abc-d", "1-trap-ABC-d"] {
            assert_eq!(of_name(name), None, "{name}");
        }
        assert!(of_name("0000000000001-trap-0123456789ab-01234567").is_some());
    }
}
