//! The audit log of a lone node: files of lines, the oldest of which is dropped in time.
//!
//! `audit-N.jsonl` begins with line number N. A line is synced before its write returns. Files are
//! only appended to, but for two cases, each of which leaves a line that says so: what a crash has
//! left of a line without its end is cut off, and the oldest file is dropped.
//!
//! With an intent, room on the disk is kept for its outcome: a disk that fills up in between can't
//! keep a change that was made out of the log.

use super::line::{Change, FORMAT, Kind, Line};
use crate::{limits, plugin::Digest, random};
use bytes::Bytes;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use serde_json::json;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

/// How much is kept; tests keep less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub file_bytes: u64,
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: limits::AUDIT_FILE_BYTES_MAX, files: limits::AUDIT_FILES_MAX }
    }
}

/// The files of one node. Used under a lock.
pub(super) struct Files {
    dir: PathBuf,
    limits: Limits,
    writer: String,
    /// `None`: not opened yet, or something failed of which it is not known what it has left.
    open: Option<Open>,
}

/// The file that is written to.
struct Open {
    file: File,
    path: PathBuf,
    /// Up to the end of the last line.
    bytes: u64,
    /// The number of the next line.
    next: u64,
    previous: Option<Digest>,
}

impl Files {
    pub fn new(dir: PathBuf, limits: Limits) -> Self {
        Self { dir, limits, writer: random::hex_id(), open: None }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the last file, or makes the first one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(&mut self, node: &str, now_ms: u64) -> Result<(), String> {
        if self.open.is_some() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(at(&self.dir))?;
        let mut files = list(&self.dir)?;
        let mut cut = 0;
        let mut empty = Vec::new();
        let mut open = loop {
            let Some((first, path)) = files.last() else {
                let (file, path) = make(&self.dir, 1)?;
                break Open { file, path, bytes: 0, next: 1, previous: None };
            };
            let (open, torn) = reopen(path, *first)?;
            cut += torn;
            if open.next > *first || files.len() == 1 {
                break open;
            }
            // A crash came between making it and its first line. The hash is in the one before.
            empty.extend(files.pop().map(|(_, path)| path));
        };
        if cut > 0 {
            tracing::warn!(
                bytes = cut,
                "the audit log ended with a part of a line, which is cut off"
            );
            let mut change = Change::event("line-cut");
            change.before.insert("bytes".into(), json!(cut));
            let line = self.line(&open, node, now_ms, Kind::Event, change)?;
            // What is cut off goes only with the line that says so: the disk may be full.
            open.put_over(&line)?;
        }
        for path in empty {
            fs::remove_file(&path).map_err(at(&path))?;
        }
        self.open = Some(open);
        Ok(())
    }

    /// Writes a line; it is durable when this returns its number. With an intent, room is kept for the
    /// outcomes of all changes that are `under_way`.
    ///
    /// # Errors
    /// Why it is not. It may be there all the same if the disk failed in the middle.
    pub fn append(
        &mut self,
        node: &str,
        now_ms: u64,
        kind: Kind,
        change: Change,
        under_way: usize,
    ) -> Result<u64, String> {
        self.open(node, now_ms)?;
        let Some(mut open) = self.open.take() else { return Err("it is not open".into()) };
        // An outcome goes where room was kept for it. Requests that were refused have outcomes alone, and any number.
        let full = match kind {
            Kind::Outcome => self.limits.file_bytes.saturating_mul(2),
            Kind::Intent | Kind::Event => self.limits.file_bytes,
        };
        if open.bytes >= full {
            open = self.rotate(open, node, now_ms)?;
        }
        let line = self.line(&open, node, now_ms, kind, change)?;
        if kind == Kind::Intent {
            let outcomes = under_way.clamp(1, limits::AUDIT_OUTCOMES_RESERVED_MAX) as u64;
            let room = line.len() as u64 + outcomes * limits::AUDIT_OUTCOME_BYTES;
            if let Err(why) = open.reserve(room) {
                // Nothing was written.
                self.open = Some(open);
                return Err(why);
            }
        }
        let number = open.next;
        // After a failure the file is opened again, which finds what there is of the line.
        open.put(&line)?;
        self.open = Some(open);
        Ok(number)
    }

    fn line(
        &self,
        open: &Open,
        node: &str,
        at_ms: u64,
        kind: Kind,
        change: Change,
    ) -> Result<Vec<u8>, String> {
        let line = Line {
            format: FORMAT,
            number: Some(open.next),
            writer: self.writer.clone(),
            previous: open.previous,
            at_ms,
            node: node.to_owned(),
            kind,
            change,
        };
        line.encode()
    }

    /// Goes on in another file, and drops the oldest if there are too many.
    fn rotate(&self, old: Open, node: &str, now_ms: u64) -> Result<Open, String> {
        // Gives back the room that was kept behind its last line.
        old.file.set_len(old.bytes).map_err(at(&self.dir))?;
        let (file, path) = make(&self.dir, old.next)?;
        let mut open = Open { file, path, bytes: 0, ..old };
        let files = list(&self.dir)?;
        let too_many = files.len().saturating_sub(self.limits.files);
        let kept_from = files.get(too_many).map(|(first, _)| *first);
        if let (Some((first, _)), Some(kept_from), 1..) = (files.first(), kept_from, too_many) {
            let mut change = Change::event("lines-dropped");
            change.before.insert("first".into(), json!(first));
            change.before.insert("last".into(), json!(kept_from - 1));
            let line = self.line(&open, node, now_ms, Kind::Event, change)?;
            open.put(&line)?;
        }
        for (_, path) in files.iter().take(too_many) {
            fs::remove_file(path).map_err(at(path))?;
        }
        Ok(open)
    }

    /// The numbers of the first and the last line.
    ///
    /// # Errors
    /// What the disk says.
    pub fn bounds(&mut self) -> Result<Option<(u64, u64)>, String> {
        let Some((first, _)) = list(&self.dir)?.into_iter().next() else { return Ok(None) };
        let next = match &self.open {
            Some(open) => open.next,
            None => {
                let Some((first, path)) = list(&self.dir)?.pop() else { return Ok(None) };
                let text = fs::read(&path).map_err(at(&path))?;
                first + memchr_count(&text)
            }
        };
        Ok((next > first).then(|| (first, next - 1)))
    }
}

impl Open {
    /// Has the disk keep room behind the last line.
    fn reserve(&self, bytes: u64) -> Result<(), String> {
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.bytes, bytes) {
            Ok(()) => Ok(()),
            // Of a file system that can't; the outcome then is written if there is room.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(e) => Err(format!("no room for the audit log: {e}")),
        }
    }

    fn put(&mut self, line: &[u8]) -> Result<(), String> {
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        let written = self.file.write_all(&whole).and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            // So that readers do not see a line that was refused. If that fails too, the next start
            // of a write finds it.
            let _ = self.file.set_len(self.bytes).and_then(|()| self.file.sync_data());
            return Err(format!("writing the audit log: {e}"));
        }
        self.has(line, whole.len());
        Ok(())
    }

    /// As [`Self::put`], in the place of the part of a line that there may be. If it fails, there still is one.
    fn put_over(&mut self, line: &[u8]) -> Result<(), String> {
        let whole = [line, b"\n"].concat();
        let end = self.bytes + whole.len() as u64;
        // What is opened to append ignores where it is to be written.
        let written = OpenOptions::new().write(true).open(&self.path).and_then(|file| {
            file.write_all_at(&whole, self.bytes)?;
            file.set_len(end)?;
            file.sync_data()
        });
        written.map_err(|e| format!("writing the audit log: {e}"))?;
        self.has(line, whole.len());
        Ok(())
    }

    fn has(&mut self, line: &[u8], bytes: usize) {
        self.bytes += bytes as u64;
        self.next += 1;
        self.previous = Some(Digest::of(line));
    }
}

fn memchr_count(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The files, by the number of their first line.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(at(dir)(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(at(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

fn make(dir: &Path, first: u64) -> Result<(File, PathBuf), String> {
    let path = dir.join(format!("{PREFIX}{first:020}{SUFFIX}"));
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let file = file.map_err(at(&path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))?;
    Ok((file, path))
}

/// Opens a file to go on with, and how many bytes there are behind its last line.
fn reopen(path: &Path, first: u64) -> Result<(Open, u64), String> {
    let text = fs::read(path).map_err(at(path))?;
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let file = OpenOptions::new().append(true).open(path).map_err(at(path))?;
    let cut = (text.len() - end) as u64;
    let lines = &text[..end];
    let last = lines.strip_suffix(b"\n").map(|lines| {
        let begin = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Digest::of(&lines[begin..])
    });
    let next = first + memchr_count(lines);
    Ok((Open { file, path: path.to_owned(), bytes: end as u64, next, previous: last }, cut))
}

/// Up to `count` whole lines from number `from` on.
///
/// # Errors
/// What the disk says.
pub(super) fn read(dir: &Path, from: u64, count: usize) -> Result<Vec<(u64, Bytes)>, String> {
    let files = list(dir)?;
    let begin = files.partition_point(|(first, _)| *first <= from).saturating_sub(1);
    let mut lines = Vec::new();
    for (first, path) in files.iter().skip(begin) {
        let text = match fs::read(path) {
            Ok(text) => Bytes::from(text),
            // It was just dropped.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(at(path)(e)),
        };
        let (mut number, mut rest) = (*first, text);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.split_to(end + 1).slice(..end);
            if number >= from {
                if lines.len() == count {
                    return Ok(lines);
                }
                lines.push((number, line));
            }
            number += 1;
        }
    }
    Ok(lines)
}

fn at(path: &Path) -> impl Fn(io::Error) -> String + use<> {
    let path = path.display().to_string();
    move |e| format!("{path}: {e}")
}

#[cfg(test)]
mod tests {
    use super::{super::verify::Verifier, *};
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _};

    const SMALL: Limits = Limits { file_bytes: 2_000, files: 3 };

    fn change(n: u64) -> Change {
        Change {
            id: n.to_string(),
            who: "root".into(),
            action: "POST /x".into(),
            ..Change::default()
        }
    }

    fn verified(dir: &Path) -> Result<u64, String> {
        let mut verifier = Verifier::default();
        for (number, line) in read(dir, 0, usize::MAX)? {
            verifier.line(number, &line)?;
        }
        Ok(verifier.lines())
    }

    /// Old lines make room for new ones, and whoever reads it sees that some are gone.
    #[test]
    fn the_oldest_file_is_dropped_and_a_line_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(dir.path().join("audit"), SMALL);
        for n in 1..=100 {
            files.append("n", 1, Kind::Event, change(n), 1).unwrap();
        }
        let all = list(files.dir()).unwrap();
        assert_eq!(all.len(), 3);
        let mode = fs::metadata(&all[0].1).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (first, last) = files.bounds().unwrap().unwrap();
        assert!(first > 1 && last > 100, "{first} {last}");
        let lines = read(files.dir(), first, usize::MAX).unwrap();
        assert_eq!(lines.len() as u64, last - first + 1);
        let dropped = lines.iter().filter_map(|(_, line)| Line::decode(line).ok());
        let dropped: Vec<_> =
            dropped.filter(|line| line.change.action == "lines-dropped").collect();
        assert_eq!(dropped.last().unwrap().change.before["last"], first - 1);
        assert_eq!(verified(files.dir()), Ok(last - first + 1));
        // Another process goes on.
        drop(files);
        let mut files = Files::new(dir.path().join("audit"), SMALL);
        assert_eq!(files.append("n", 1, Kind::Event, change(0), 1).unwrap(), last + 1);
        assert_eq!(read(files.dir(), last, 1).unwrap().len(), 1);
        assert!(verified(files.dir()).is_ok());
    }

    /// A crash in the middle of a write must not glue two lines together, nor stop the node.
    #[test]
    fn a_torn_last_line_is_cut_off_and_a_line_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(dir.path().join("audit"), Limits::default());
        files.append("n", 1, Kind::Intent, change(1), 1).unwrap();
        files.append("n", 1, Kind::Intent, change(2), 1).unwrap();
        drop(files);
        let (_, path) = list(&dir.path().join("audit")).unwrap().pop().unwrap();
        let whole = fs::read(&path).unwrap();
        let second = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for torn in [second + 1, whole.len() - 1] {
            fs::write(&path, &whole[..torn]).unwrap();
            let mut files = Files::new(dir.path().join("audit"), Limits::default());
            files.open("n", 1).unwrap();
            let lines = read(files.dir(), 1, 10).unwrap();
            let last = Line::decode(&lines[1].1).unwrap();
            assert_eq!((lines.len(), &*last.change.action), (2, "line-cut"));
            assert_eq!(last.change.before["bytes"], torn - second);
            assert_eq!(verified(files.dir()), Ok(2));
        }
        // Nothing but a part of the first line, and a file without a line behind another.
        fs::write(&path, &whole[..5]).unwrap();
        let mut files = Files::new(dir.path().join("audit"), Limits::default());
        files.append("n", 1, Kind::Event, change(3), 1).unwrap();
        assert_eq!(files.bounds(), Ok(Some((1, 2))));
        drop(files);
        make(&dir.path().join("audit"), 3).unwrap();
        let mut files = Files::new(dir.path().join("audit"), Limits::default());
        assert_eq!(files.append("n", 1, Kind::Event, change(4), 1), Ok(3));
        assert_eq!(verified(files.dir()), Ok(3));
    }

    /// A part of a line that is gone without a word is one that somebody may have taken away.
    #[test]
    fn on_a_full_disk_a_torn_line_stays_until_a_line_says_that_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("audit");
        let mut files = Files::new(folder.clone(), Limits::default());
        files.append("n", 1, Kind::Event, change(1), 1).unwrap();
        drop(files);
        let (_, path) = list(&folder).unwrap().pop().unwrap();
        let torn = [fs::read(&path).unwrap(), b"{\"format\":1,".to_vec()].concat();
        // A file that can't grow.
        let full: File = memfd_create("audit", MemfdFlags::ALLOW_SEALING).unwrap().into();
        full.write_all_at(&torn, 0).unwrap();
        fcntl_add_seals(&full, SealFlags::GROW).unwrap();
        fs::remove_file(&path).unwrap();
        let of_memory = format!("/proc/self/fd/{}", full.as_raw_fd());
        std::os::unix::fs::symlink(of_memory, &path).unwrap();
        let mut files = Files::new(folder.clone(), Limits::default());
        for _ in 0..2 {
            assert!(files.open("n", 1).is_err());
            assert_eq!(fs::read(&path).unwrap(), torn);
        }
        // There is room again, for another process.
        drop(files);
        fs::remove_file(&path).unwrap();
        fs::write(&path, &torn).unwrap();
        let mut files = Files::new(folder, Limits::default());
        assert_eq!(files.append("n", 1, Kind::Event, change(2), 1), Ok(3));
        let lines = read(files.dir(), 2, 1).unwrap();
        let cut = Line::decode(&lines[0].1).unwrap().change;
        assert_eq!((&*cut.action, &cut.before["bytes"]), ("line-cut", &json!(12)));
        assert_eq!(verified(files.dir()), Ok(3));
    }

    /// It is what the hashes are for.
    #[test]
    fn a_line_that_was_changed_or_removed_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(dir.path().join("audit"), Limits::default());
        for n in 1..=5 {
            files.append("n", 1, Kind::Event, change(n), 1).unwrap();
        }
        let (_, path) = list(files.dir()).unwrap().pop().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("root", "toor", 1)).unwrap();
        let why = verified(files.dir()).unwrap_err();
        assert!(why.contains("line 2") && why.contains("changed"), "{why}");
        let lines: Vec<_> = text.lines().collect();
        fs::write(&path, [lines[0], lines[2], lines[3], lines[4], ""].join("\n")).unwrap();
        assert!(verified(files.dir()).is_err());
    }
}
