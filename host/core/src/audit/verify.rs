//! Checks that no line of an audit log was changed or removed, by the hashes that the lines carry.
//!
//! What it can't find: that lines at the very end were removed, or the whole log was written anew.
//! Who keeps the last line's hash elsewhere finds that too.

use super::line::Line;
use crate::plugin::Digest;
use std::collections::HashMap;

/// Takes lines in, in their order.
#[derive(Debug, Default)]
pub struct Verifier {
    lines: u64,
    /// The number and hash of the last line.
    last: Option<(u64, Digest)>,
    /// In a stream, the last line's hash of each writer.
    writers: HashMap<String, Digest>,
}

impl Verifier {
    /// The next line: its number, and its bytes as they are stored.
    ///
    /// # Errors
    /// What is wrong before or with it.
    pub fn line(&mut self, number: u64, bytes: &[u8]) -> Result<(), String> {
        let line =
            Line::decode(bytes).map_err(|why| format!("line {number} can't be read: {why}"))?;
        let hash = Digest::of(bytes);
        let last = self.last.replace((number, hash));
        self.lines += 1;
        if let Some((before, _)) = last
            && number != before + 1
        {
            return Err(format!("between line {before} and line {number} some are missing"));
        }
        let expected = match line.number {
            Some(said) if said != number => {
                return Err(format!("line {number} says that it is line {said}: some are missing"));
            }
            // In files each line follows the one before, whoever wrote that.
            Some(_) => last.map(|(_, hash)| hash),
            None => {
                let before = self.writers.insert(line.writer.clone(), hash);
                // It was published twice, as its acknowledgement was lost.
                if before == Some(hash) {
                    return Ok(());
                }
                before
            }
        };
        match expected {
            Some(expected) if line.previous != Some(expected) => Err(format!(
                "line {number} does not follow what is before it: a line before it was changed, or removed"
            )),
            // The first that is there: what it follows was dropped in time, or was not asked for.
            _ => Ok(()),
        }
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The number and the hash of the last line.
    pub fn last(&self) -> Option<(u64, Digest)> {
        self.last
    }
}
