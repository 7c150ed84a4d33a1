use super::{
    lang::toolchain::{Route, Toolchain},
    *,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn named(name: &str, path: PathBuf) -> NewOptions {
    let (name, path) = (name.into(), Some(path));
    NewOptions { lang: Lang::Rust, name, name_bytes_max: 64, path, sdk: None }
}

/// A name that cargo refuses would leave a crate behind that cannot be built.
#[test]
fn names_are_checked_before_anything_is_written() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    for name in ["", "Tea", "1st", "a b", "../x", "fn", "serde", "slotd_guest", &"x".repeat(65)] {
        let refused = new(&named(name, home.path().join("crate")));
        assert!(refused.is_err(), "{name:?}");
    }
    assert_eq!(fs::read_dir(home.path())?.count(), 0);
    Ok(())
}

/// Existing files are never overwritten.
#[test]
fn a_folder_with_something_in_it_is_left_alone() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let options = |path: &Path, sdk: Option<&Path>| NewOptions {
        sdk: sdk.map(Into::into),
        ..named("poll", path.into())
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

/// Errors that prevent a build must help the user to fix them.
#[test]
fn what_cannot_be_built_is_said() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let failure = |dir: PathBuf| {
        let options = BuildOptions { dir, profile: None };
        build(&options, &Steps::quiet()).err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    assert!(failure(home.path().join("nowhere")).contains("no folder"));
    assert!(failure(home.path().into()).contains("is not a plugin"));
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

/// The first steps of a plugin's author must work: new, test, build. One target folder for all
/// runs, so that only the first compiles the SDK.
#[test]
fn a_new_plugin_tests_and_builds() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    if Toolchain::detect(home.path())?.is_none() {
        // `cargo xtask test` has set one up before.
        assert!(std::env::var_os("SLOTD_TEST_BIN").is_none(), "the toolchain is not found");
        eprintln!("no toolchain for plugins: run `slotd plugin setup`");
        return Ok(());
    }
    let dir = home.path().join("poll");
    new(&named("poll", dir.clone()))?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/new-plugin");
    fs::create_dir_all(dir.join(".cargo"))?;
    let config = format!("build.target-dir = {}", toml::Value::from(&*target.to_string_lossy()));
    fs::write(dir.join(".cargo/config.toml"), config)?;
    // The workspace's versions: a test must not depend on later publications.
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock"),
        dir.join("Cargo.lock"),
    )?;

    assert!(test(&dir, &["--quiet".into()], &Steps::quiet())?.success());
    let out = home.path().join("poll.wasm");
    let built = build(&BuildOptions { dir, profile: None }, &Steps::quiet())?;
    built.write(Some(&out))?;
    let bytes = fs::read(&out)?;
    assert_eq!(built.bytes, bytes);
    assert!(bytes.ends_with(b"version0.1.0"));
    let types = b"slotd:types{\"$defs\":{";
    assert!(bytes.windows(types.len()).any(|w| w == types), "clients are told nothing");
    let wasi = Toolchain::detect(home.path())?.is_some_and(|t| t.route == Route::Wasip2);
    assert!(wasi || !bytes.windows(5).any(|w| w == b"wasi:"));
    Ok(())
}
