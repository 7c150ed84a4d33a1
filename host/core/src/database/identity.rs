//! The small files beside the database: what the directory is, and how far its log surely went.

use super::OpenError;
use crate::{
    level::{self, Level, Unknown},
    random,
    seal::Keyring,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};
use xxhash_rust::xxh3::xxh3_64;

pub const FILE: &str = "slotd.json";
/// Stands while a directory is being made: without an identity and with it, nothing is lost.
pub const CREATING: &str = "creating";
pub const DATABASE: &str = "db";
pub const LOCK: &str = "slotd.lock";
pub const MARK: &str = "commit.mark";
/// What new directories are made with, and others get with feature level 2.
const FORMAT: u32 = 3;
/// What a directory has from the first start with a key on: versions from before can't open what is sealed.
const FORMAT_SEALED: u32 = 4;
/// The first directories were made with this one, and are used as they are.
const FORMAT_MIN: u32 = 1;
/// From this one on the identity lists what is in the directory. Up to here the format shows it: with 2
/// large pieces of history lie apart.
const FORMAT_LISTS: u32 = 3;
const FORMAT_BODIES: u32 = 2;

/// What a data directory records of itself. Never changes, but for the feature level and the format
/// that keeps older versions out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    pub slot_count: u16,
    /// The node's id: 32 hexadecimal digits, random.
    pub node: String,
    /// Starts the log's chain and marks its records, so that no record of another directory, and
    /// no bytes that a client chose, pass for one.
    pub salt: u64,
    /// The log is a cluster's, elsewhere: positions in the state are that log's.
    #[serde(default)]
    pub clustered: bool,
    /// From format 3 on: what its log may hold. See [`crate::level`].
    #[serde(default = "level::oldest")]
    level: Level,
    /// From format 3 on: large pieces of history lie apart.
    #[serde(default)]
    bodies: bool,
    /// From format 4 on: the ids of the keys that something in it may be sealed with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sealed_with: Vec<String>,
    /// All that is in it is kept so, or something newer: the id of a key, or [`CLEAR`](crate::seal::CLEAR). Absent: not everything may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_as: Option<String>,
    /// What a later version has put there.
    #[serde(flatten)]
    unknown: Unknown,
}

impl Identity {
    pub fn new(slot_count: u16, clustered: bool) -> io::Result<Self> {
        let (node, salt) = (random::lasting_id()?, random::lasting_id()? as u64);
        Ok(Self {
            format: FORMAT,
            slot_count,
            node: random::hex(node),
            salt,
            clustered,
            level: level::NEWEST,
            bodies: true,
            sealed_with: Vec::new(),
            kept_as: None,
            unknown: Unknown::default(),
        })
    }

    /// As a version made it that knew formats up to this one.
    #[cfg(test)]
    pub fn of_format(format: u32, slot_count: u16) -> io::Result<Self> {
        let made = Self::new(slot_count, false)?;
        Ok(Self { format, level: level::OLDEST, bodies: false, ..made })
    }

    /// What the log in it may hold.
    pub fn level(&self) -> Level {
        if self.format >= FORMAT_LISTS { self.level } else { level::OLDEST }
    }

    /// Whether large pieces of history lie apart.
    pub fn has_bodies(&self) -> bool {
        if self.format >= FORMAT_LISTS { self.bodies } else { self.format >= FORMAT_BODIES }
    }

    /// The same directory at a higher level: versions that can't read that refuse it from then on.
    pub fn raised(&self, to: Level) -> Self {
        let bodies = self.has_bodies();
        let format = self.format.max(FORMAT);
        Self { format, level: to.max(self.level()), bodies, ..self.clone() }
    }

    /// The same directory, in which what is written from now on is sealed with the first of `keys`; `None`: it is already.
    ///
    /// # Errors
    /// Something in it is sealed with a key that is not among them.
    pub fn sealed(&self, keys: &Keyring) -> Result<Option<Self>, String> {
        let had: Vec<_> = keys.ids().map(|id| id.to_string()).collect();
        if let Some(id) = self.sealed_with.iter().find(|id| !had.contains(id)) {
            return Err(format!(
                "has data that is sealed with the key {id}, and this node {}: give it that key in seal.key_file, below \
                 the one in use. `slotd seal status` shows what still needs a key, and when none of it does",
                match had.is_empty() {
                    true => "has no keys".to_owned(),
                    false => format!("has {}", had.join(", ")),
                }
            ));
        }
        let mut next = self.clone();
        if let Some(first) = keys.sealing().map(|id| id.to_string())
            && !self.sealed_with.contains(&first)
        {
            next = self.raised(self.level());
            next.format = FORMAT_SEALED;
            next.sealed_with.push(first);
        }
        // What is written from now on is kept otherwise than the rest.
        if self.kept_as.as_deref().is_some_and(|as_| as_ != keys.kept_as()) {
            next.kept_as = None;
        }
        Ok((next != *self).then_some(next))
    }

    /// Whether all that is in it is surely kept as `keys` would have it.
    pub fn is_resealed(&self, keys: &Keyring) -> bool {
        let only: Vec<_> = keys.sealing().map(|id| id.to_string()).into_iter().collect();
        // One that never had a key was never asked.
        let known = self.kept_as.as_deref() == Some(&*keys.kept_as()) || only.is_empty();
        known && self.sealed_with == only
    }

    /// The same directory, once all that is in it is kept as `keys` would have it: no other key is needed any more.
    pub fn resealed(&self, keys: &Keyring) -> Self {
        let sealed_with = keys.sealing().map(|id| id.to_string()).into_iter().collect();
        Self { sealed_with, kept_as: Some(keys.kept_as()), ..self.clone() }
    }

    /// The ids of the keys that something in it may be sealed with.
    pub fn sealed_with(&self) -> &[String] {
        &self.sealed_with
    }

    /// Reads it; `None` when there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(OpenError::io(&path, e)),
        };
        let damaged = |why: String| OpenError::corrupt(&path, why);
        let (json, sum) = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.strip_suffix('\n')?.rsplit_once('\n'))
            .ok_or_else(|| damaged("not two lines".into()))?;
        if sum != format!("{:016x}", xxh3_64(json.as_bytes())) {
            return Err(damaged("its checksum is wrong".into()));
        }
        let identity: Self = serde_json::from_str(json).map_err(|e| damaged(e.to_string()))?;
        if !(FORMAT_MIN..=FORMAT_SEALED).contains(&identity.format) {
            return Err(OpenError::Mismatch(format!(
                "{} has format {}; this slotd reads {FORMAT_MIN} to {FORMAT_SEALED}",
                dir.display(),
                identity.format
            )));
        }
        if identity.level() > level::NEWEST {
            return Err(OpenError::Mismatch(format!(
                "{} is at feature level {}; this slotd reads {} to {}",
                dir.display(),
                identity.level(),
                level::OLDEST,
                level::NEWEST
            )));
        }
        Ok(Some(identity))
    }

    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let json = serde_json::to_string(self)?;
        let text = format!("{json}\n{:016x}\n", xxh3_64(json.as_bytes()));
        let new = dir.join("slotd.json.new");
        write_synced(&new, text.as_bytes())?;
        fs::rename(&new, dir.join(FILE))?;
        sync_dir(dir)
    }
}

/// Writes a file whole and syncs it and its directory.
pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), sync_dir)
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// How far the log surely went: at least this group commit was acknowledged. Written lazily, and
/// exactly when a node stops in order. Alone it proves nothing about the last moments before a crash;
/// together with the journal check it shows a tail that went missing.
pub struct Mark {
    file: File,
    written: u64,
}

impl Mark {
    pub fn create(dir: &Path) -> io::Result<()> {
        write_synced(&dir.join(MARK), &encode_mark(0))
    }

    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(MARK);
        let file = fs::OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|e| OpenError::io(&path, e))?;
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, 0).map_err(|e| OpenError::io(&path, e))?;
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[..8]);
        let written = u64::from_le_bytes(number);
        if bytes != encode_mark(written) {
            return Err(OpenError::corrupt(&path, "its checksum is wrong"));
        }
        Ok(Self { file, written })
    }

    pub fn number(&self) -> u64 {
        self.written
    }

    /// Moves the mark up to `number`, which is durable.
    pub fn advance(&mut self, number: u64, sync: bool) -> io::Result<()> {
        if number > self.written {
            self.file.write_all_at(&encode_mark(number), 0)?;
            self.written = number;
        }
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

fn encode_mark(number: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&number.to_le_bytes());
    let sum = xxh3_64(&out[..8]);
    out[8..].copy_from_slice(&sum.to_le_bytes());
    out
}
