//! Holds that what stands behind a seam of `host/core` is named in one folder only, and that nothing
//! of the crate above gets into it.

use crate::circles::{code_of, read, words};
use anyhow::ensure;
use std::path::{Path, PathBuf};

/// A crate, and the folder that may name it.
const BEHIND: [(&str, &str); 3] =
    [("fjall", "database"), ("lsm_tree", "database"), ("sfa", "database")];

/// What the server is made of: HTTP, gRPC, the command line, membership, discovery.
const ABOVE: [&str; 18] = [
    "axum",
    "clap",
    "foca",
    "h2",
    "hickory-resolver",
    "http",
    "http-body",
    "http-body-util",
    "hyper",
    "hyper-util",
    "prost",
    "slotd-outbound",
    "tokio-tungstenite",
    "tonic",
    "tonic-prost",
    "tower",
    "utoipa",
    "utoipa-axum",
];

/// Fails with every file of the crate in `folder` that names a crate which is none of its folder's,
/// and with every dependency that only the server may have.
pub fn check(folder: &Path) -> anyhow::Result<()> {
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml"))?;
    let above = above(&manifest);
    ensure!(above.is_empty(), "{} depends on {}", folder.display(), above.join(", "));
    let src = &folder.join("src");
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

/// The dependencies of a manifest, its tests' aside, that are of the server.
fn above(manifest: &str) -> Vec<&str> {
    let section = manifest.split("\n[").find(|section| section.starts_with("dependencies]"));
    let lines = section.unwrap_or_default().lines();
    let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| ABOVE.contains(name)).collect()
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
    fn a_dependency_of_the_server_is_found() {
        let manifest = "[package]\n\n[dependencies]\n# axum\nbytes.workspace = true\n\
                        hyper = { workspace = true }\nclap.workspace = true\nhyperfine = \"1\"\n\n\
                        [dev-dependencies]\naxum.workspace = true\n";
        assert_eq!(above(manifest), ["hyper", "clap"]);
    }

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
