//! Holds that what stands behind a seam of `host/src` is named in one folder only.

use crate::circles::{code_of, read, words};
use anyhow::ensure;
use std::path::{Path, PathBuf};

/// A crate, and the folder that may name it.
const BEHIND: [(&str, &str); 3] =
    [("fjall", "database"), ("lsm_tree", "database"), ("sfa", "database")];

/// Fails with every file under `src` that names a crate which is none of its folder's.
pub fn check(src: &Path) -> anyhow::Result<()> {
    let mut files = Vec::new();
    read(src, src, &mut files)?;
    let strays = strays(&files);
    ensure!(
        strays.is_empty(),
        "what stands behind a seam is named outside of its folder\n{}",
        strays.join("\n")
    );
    // A folder that was renamed would be held to nothing.
    for (name, folder) in BEHIND {
        let inside = |(file, text): &(PathBuf, String)| {
            file.starts_with(folder) && words(&code_of(text)).any(|word| word == name)
        };
        ensure!(
            name == "lsm_tree" || files.iter().any(inside),
            "nothing in {folder} names {name}: is it elsewhere now?"
        );
    }
    Ok(())
}

fn strays(files: &[(PathBuf, String)]) -> Vec<String> {
    let mut strays = Vec::new();
    for (file, text) in files {
        let code = code_of(text);
        for (name, folder) in BEHIND {
            if !file.starts_with(folder) && words(&code).any(|word| word == name) {
                strays.push(format!("  {} names {name}, as only {folder}/ may", file.display()));
            }
        }
    }
    strays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_named_in_its_folder_only() {
        let file = |file: &str, text: &str| (file.into(), text.to_owned());
        let files = [
            file("database/engine.rs", "use fjall::Keyspace; use sfa::Reader;"),
            file("state/mod.rs", "/// Not fjall's.\nconst A: &str = \"fjall\"; use fjallish::B;"),
            file("storage/tests/model.rs", "use fjall::AbstractTree as _;"),
            file("database_of_another.rs", "fn open(from: lsm_tree::Slice) {}"),
        ];
        assert_eq!(
            strays(&files),
            [
                "  storage/tests/model.rs names fjall, as only database/ may",
                "  database_of_another.rs names lsm_tree, as only database/ may",
            ]
        );
    }
}
