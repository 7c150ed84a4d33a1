//! `slotd plugin test`.

use crate::{lang::Lang, sdk, steps::Steps, types::write_declarations};
use anyhow::Context;
use std::{ffi::OsString, path::Path, process::ExitStatus};

/// Runs a plugin's own tests with its language's usual runner.
///
/// # Errors
/// If the folder is not a plugin, or the tests can't be run at all.
pub fn test(dir: &Path, args: &[OsString], steps: &Steps) -> anyhow::Result<ExitStatus> {
    let dir =
        dir.canonicalize().with_context(|| format!("there is no folder {}", dir.display()))?;
    let lang = Lang::of(&dir)?;
    let language = lang.language();
    if !language.sdk().is_empty() {
        sdk::write(&dir, language.sdk())?;
    }
    write_declarations(&dir, lang)?;
    language.test(&dir, args, steps)
}
