//! Usage on disk: a file for each day, JSON lines. The first line says what it is, each other one is an account.
//!
//! ```text
//! {"slotd":"usage","format":1,"day":"2026-11-30","accounts":2}
//! {"service":"chat","who":"nobody","messages":12,...}
//! {"service":"chat","who":{"subject":"ann"},"messages":3,...}
//! ```
//!
//! A file is written whole, under another name, made durable, and renamed. So one that is not whole is damaged. It is
//! set aside and not touched again, and so is one of a later format.

use super::{Account, Day};
use crate::limits;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// The format that is written. A field more is a format more: an older slotd would drop it.
const FORMAT: u32 = 1;
const KIND: &str = "usage";
const SUFFIX: &str = ".jsonl";
const UNREADABLE: &str = ".jsonl.unreadable";

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{path} is not usage as this version writes it ({why}); it is set aside, and its day begins anew"
    )]
    Damaged { path: PathBuf, why: String },
}

#[derive(Serialize, Deserialize)]
struct Head {
    slotd: String,
    format: u32,
    day: Date,
    accounts: usize,
}

#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
    days_kept: u32,
}

impl Files {
    /// # Errors
    /// The folder can't be made.
    pub fn open(folder: &Path, days_kept: u32) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into(), days_kept: days_kept.clamp(1, limits::USAGE_DAYS_MAX) })
    }

    fn path(&self, day: Date) -> PathBuf {
        self.folder.join(format!("{day}{SUFFIX}"))
    }

    /// The days that are kept, in order.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn days(&self) -> io::Result<Vec<Date>> {
        let mut days = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let day =
                name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse::<Date>().ok());
            days.extend(day);
        }
        days.sort_unstable();
        Ok(days)
    }

    /// What is kept of a day; `None`: nothing.
    ///
    /// # Errors
    /// What is wrong with its file.
    pub fn read(&self, day: Date) -> Result<Option<Day>, Fault> {
        let path = self.path(day);
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Fault::Damaged { path, why: error.to_string() });
            }
            Err(error) => return Err(Fault::Io { path, error }),
        };
        match parse(&text, day) {
            Ok(day) => Ok(Some(day)),
            Err(why) => Err(Fault::Damaged { path, why }),
        }
    }

    /// # Errors
    /// It is as before.
    pub fn write(&self, day: &Day) -> io::Result<()> {
        let head =
            Head { slotd: KIND.into(), format: FORMAT, day: day.day, accounts: day.accounts.len() };
        let mut text = serde_json::to_vec(&head)?;
        for account in &day.accounts {
            text.push(b'\n');
            serde_json::to_writer(&mut text, account)?;
        }
        text.push(b'\n');
        let path = self.path(day.day);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Keeps a file that can't be read out of the way.
    ///
    /// # Errors
    /// It is where it was.
    pub fn set_aside(&self, day: Date) -> io::Result<()> {
        fs::rename(self.path(day), self.folder.join(format!("{day}{UNREADABLE}")))
    }

    /// Removes days that are too old, or too much: never that of today.
    ///
    /// # Errors
    /// The folder can't be read; or some could not be removed.
    pub fn prune(&self, today: Date) -> io::Result<()> {
        let (mut kept, mut bytes) = (0, 0);
        self.drop_set_aside(today)?;
        for day in self.days()?.into_iter().rev() {
            let path = self.path(day);
            bytes += fs::metadata(&path).map(|meta| meta.len()).unwrap_or(0);
            kept += 1;
            // Days ahead are of a clock that went back: they count as others do.
            let goes = kept > self.days_kept || bytes > limits::USAGE_BYTES_MAX;
            if goes && day != today {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

impl Files {
    /// Those that were set aside are kept as long as others.
    fn drop_set_aside(&self, today: Date) -> io::Result<()> {
        let oldest = today.saturating_sub(jiff::Span::new().days(i64::from(self.days_kept)));
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let day = name.to_str().and_then(|name| name.strip_suffix(UNREADABLE));
            if day.and_then(|day| day.parse::<Date>().ok()).is_some_and(|day| day < oldest) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read =
        File::open(path)?.take(limits::USAGE_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match read as u64 > limits::USAGE_FILE_BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large")),
        false => Ok(text),
    }
}

fn parse(text: &str, day: Date) -> Result<Day, String> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    // What a later version adds is none of this one's.
    let head: Head = serde_json::from_str(first).map_err(|error| format!("line 1: {error}"))?;
    if head.slotd != KIND || head.day != day {
        return Err(format!("it says that it is {} of {}", head.slotd, head.day));
    }
    if head.format > FORMAT {
        return Err(format!("format {}; this version knows {FORMAT}", head.format));
    }
    let account = |(n, line)| {
        serde_json::from_str::<Account>(line).map_err(|error| format!("line {n}: {error}"))
    };
    let accounts: Vec<_> = (2..).zip(lines).map(account).collect::<Result<_, _>>()?;
    match accounts.len() == head.accounts {
        true => Ok(Day { day, accounts }),
        false => Err(format!("it has {} of {} accounts", accounts.len(), head.accounts)),
    }
}
