//! Recorded conversations: a folder of JSONL files, one message per line.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One session's lines, in order.
#[derive(Clone, Debug)]
pub struct Conversation {
    pub session: String,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub session: String,
    /// From 0.
    pub line: u64,
    /// HH:MM of its day.
    pub time: Option<String>,
    pub kind: Kind,
    /// System lines may have none.
    pub from: Option<String>,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Say,
    Action,
    System,
}

/// The sample that comes with slotd.
pub fn sample() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/conversations")
}

/// All conversations of a folder, in order of their files' names; other files are ignored.
///
/// # Errors
/// If there is none, or a line is invalid; with the file and the line.
pub fn load(folder: &Path) -> anyhow::Result<Vec<Conversation>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    let mut conversations: Vec<Conversation> = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let line: Line = serde_json::from_str(line)
                .with_context(|| format!("{}, line {}", file.display(), number + 1))?;
            match conversations.iter_mut().rev().find(|c| c.session == line.session) {
                Some(conversation) => conversation.lines.push(line),
                None => conversations
                    .push(Conversation { session: line.session.clone(), lines: vec![line] }),
            }
        }
    }
    ensure!(!conversations.is_empty(), "{} has no conversation (*.jsonl)", folder.display());
    Ok(conversations)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The demo without an option starts from the sample.
    #[test]
    fn the_sample_is_whole() -> anyhow::Result<()> {
        let all = load(&sample())?;
        assert_eq!(all.len(), 6);
        for conversation in all {
            assert!(conversation.lines.len() >= 60, "{}", conversation.session);
            for (number, line) in conversation.lines.iter().enumerate() {
                assert_eq!(line.line, number as u64, "{}", conversation.session);
            }
        }
        Ok(())
    }
}
