//! Files and folders that only the node's user should open.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

/// Others than the owner and its group may not have these; open to a group is taken as intended.
const OTHERS: u32 = 0o007;
const READ: u32 = 0o004;

/// A warning, with the command that mends it, if every user of the machine can read the file, which
/// holds `what`.
pub fn readable_by_all(path: &Path, what: &str) -> Option<String> {
    let mode = mode(path).ok()?;
    (mode & READ != 0).then(|| {
        let shown = path.display();
        format!(
            "every user of this machine can read {shown}, which holds {what} (mode {mode:04o}): \
             chmod o-rwx {shown}"
        )
    })
}

/// As [`readable_by_all`], of a folder that all can open.
///
/// # Errors
/// It is not there, or can't be looked at.
pub fn open_to_all(dir: &Path, what: &str) -> io::Result<Option<String>> {
    let mode = mode(dir)?;
    Ok((mode & OTHERS != 0).then(|| {
        let shown = dir.display();
        format!(
            "every user of this machine can open the {what} {shown} (mode {mode:04o}): \
             chmod -R o-rwx {shown}"
        )
    }))
}

/// Of the files in these folders of a data directory that all can read. Its own folder keeps others
/// out, unless somebody has opened it.
pub fn readable_in(data_dir: &Path, folders: &[(&str, &str)]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (folder, what) in folders {
        let Ok(entries) = fs::read_dir(data_dir.join(folder)) else { continue };
        let files = entries.flatten().map(|entry| entry.path());
        warnings.extend(files.filter_map(|path| readable_by_all(&path, what)));
    }
    warnings
}

fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn what_all_can_read_is_told_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("audit");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("audit-1.jsonl");
        fs::write(&file, "").unwrap();
        let warned = |mode| {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            readable_in(dir.path(), &[("audit", "the audit log"), ("none", "x")])
        };
        assert_eq!(warned(0o640), Vec::<String>::new());
        let warned = warned(0o644);
        let command =
            format!("which holds the audit log (mode 0644): chmod o-rwx {}", file.display());
        assert!(warned.len() == 1 && warned[0].ends_with(&command), "{warned:?}");
        assert_eq!(readable_by_all(&dir.path().join("none"), "x"), None);
        fs::set_permissions(&folder, Permissions::from_mode(0o701)).unwrap();
        let told = open_to_all(&folder, "data directory").unwrap().unwrap();
        assert!(told.ends_with(&format!("chmod -R o-rwx {}", folder.display())), "{told}");
    }
}
