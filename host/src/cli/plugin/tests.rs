use super::*;
use proptest::prelude::*;
use std::process::Command;

fn custom(name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut content = vec![name.len() as u8];
    content.extend_from_slice(name);
    content.extend_from_slice(data);
    let mut section = vec![CUSTOM];
    write_leb(&mut section, content.len());
    section.extend(content);
    section
}

fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [COMPONENT_HEADER.to_vec(), sections.concat()].concat()
}

/// Two version sections, or one in the wrong place, and the host shows the wrong version.
#[test]
fn a_version_is_stamped_once() -> anyhow::Result<()> {
    let (other, module) = (custom(b"producers", b"x"), [vec![1, 3], vec![7; 3]].concat());
    let plain = component(&[other.clone(), module.clone()]);
    let stamped = stamp_version(&plain, "1.0.0")?;
    assert_eq!(stamped, [plain, custom(b"version", b"1.0.0")].concat());
    let old = component(&[other.clone(), custom(b"version", b"0.9"), module.clone()]);
    let expected = component(&[other, module, custom(b"version", b"1.0.0")]);
    assert_eq!(stamp_version(&old, "1.0.0")?, expected);
    assert_eq!(stamp_version(&stamped, "1.0.0")?, stamped);
    Ok(())
}

/// A core module means that the linker was the wrong one; stamped it would only fail later.
#[test]
fn only_whole_components_are_stamped() {
    for bytes in [&b"\0asm\x01\0\0\0"[..], b"", b"\0asm", b"\0asm\x0d\0\x01\0\x01\x05ab"] {
        assert!(stamp_version(bytes, "1").is_err(), "{bytes:?}");
    }
}

proptest! {
    /// Whatever a file holds, stamping ends in an error or a component, never in a panic.
    #[test]
    fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let whole = component(&[bytes]);
        if let Ok(stamped) = stamp_version(&whole, "1") {
            prop_assert!(stamped.ends_with(&custom(b"version", b"1")));
        }
    }
}

/// A name that cargo refuses would leave a crate behind that cannot be built.
#[test]
fn names_are_checked_before_anything_is_written() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    for name in ["", "Tea", "1st", "a b", "../x", "fn", "serde", "slotd_guest", &"x".repeat(65)] {
        let path = Some(home.path().join("crate"));
        let refused = new(&NewOptions { name: name.into(), path, sdk: None });
        assert!(refused.is_err(), "{name:?}");
    }
    assert_eq!(fs::read_dir(home.path())?.count(), 0);
    Ok(())
}

/// Nobody's files are written over.
#[test]
fn a_folder_with_something_in_it_is_left_alone() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let options = |path: &Path, sdk: Option<&Path>| NewOptions {
        name: "poll".into(),
        path: Some(path.into()),
        sdk: sdk.map(Into::into),
    };
    fs::write(home.path().join("mine"), "x")?;
    assert!(new(&options(home.path(), None)).is_err());
    let inside = home.path().join("poll");
    assert!(new(&options(&inside, Some(home.path()))).is_err(), "that is no SDK");
    assert!(!inside.exists());
    let report = new(&options(&inside, None))?;
    assert!(report.files.iter().all(|file| inside.join(file).is_file()));
    assert!(new(&options(&inside, None)).is_err());
    assert_eq!(fs::read_to_string(home.path().join("mine"))?, "x");
    Ok(())
}

/// What keeps someone from building must be said in words that help.
#[test]
fn what_cannot_be_built_is_said() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let failure = |dir: PathBuf| {
        let options = BuildOptions { dir, quiet: true, ..BuildOptions::default() };
        build(&options).err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    assert!(failure(home.path().join("nowhere")).contains("no folder"));
    assert!(failure(home.path().into()).contains("no Cargo.toml"));
    if Toolchain::detect(home.path())?.is_none() {
        return Ok(());
    }
    fs::create_dir(home.path().join("src"))?;
    fs::write(home.path().join("src/lib.rs"), "")?;
    let manifest = "[package]\nname = \"x\"\nversion = \"0.1.0\"\n[workspace]\n";
    fs::write(home.path().join("Cargo.toml"), manifest)?;
    assert!(failure(home.path().into()).contains("cdylib"));
    Ok(())
}

/// The first thing that a plugin's author does must work: new, test, build. One target folder for
/// all runs, so that only the first compiles the SDK.
#[test]
fn a_new_plugin_tests_and_builds() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    if Toolchain::detect(home.path())?.is_none() {
        eprintln!("no toolchain for plugins: run `slotd plugin setup`");
        return Ok(());
    }
    let dir = home.path().join("poll");
    new(&NewOptions { name: "poll".into(), path: Some(dir.clone()), sdk: None })?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/new-plugin");
    fs::create_dir_all(dir.join(".cargo"))?;
    let config = format!("build.target-dir = {}", toml::Value::from(&*target.to_string_lossy()));
    fs::write(dir.join(".cargo/config.toml"), config)?;
    // As the workspace has them: a test is not to depend on what was published since.
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock"), dir.join("Cargo.lock"))?;

    let mut test = Command::new("cargo");
    assert!(test.args(["test", "--quiet"]).current_dir(&dir).status()?.success());
    let out = home.path().join("poll.wasm");
    let options = BuildOptions { dir, out: Some(out.clone()), quiet: true, ..Default::default() };
    let report = build(&options)?;
    let bytes = fs::read(&out)?;
    assert_eq!((report.bytes, report.digest), (bytes.len(), Digest::of(&bytes)));
    assert!(bytes.ends_with(&custom(b"version", b"0.1.0")));
    assert!(report.route == Route::Wasip2 || !bytes.windows(5).any(|w| w == b"wasi:"));
    Ok(())
}
