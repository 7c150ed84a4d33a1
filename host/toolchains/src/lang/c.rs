//! C: `slotd.toml` with a table `[plugin]`. (`slotd serve` reads a file of that name too, and
//! ignores this table.)

mod toolchain;

use super::{BuildOptions, Built, Language, Package};
use crate::{
    componentize::componentize,
    sdk::{Files, OWN_DIR},
    steps::Steps,
    texts::read_text,
};
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};
use toolchain::{Clang, Toolchain};

pub use toolchain::setup;

pub(super) const MANIFEST: &str = "slotd.toml";

const TEMPLATES: Files = &[
    ("slotd.toml", include_str!("../../templates/c/slotd.toml.in")),
    ("src/handler.c", include_str!("../../templates/c/handler.c.in")),
    ("tests/handler_test.c", include_str!("../../templates/c/handler_test.c.in")),
    (".gitignore", include_str!("../../templates/c/gitignore.in")),
    ("README.md", include_str!("../../templates/c/README.md.in")),
];

macro_rules! sdk {
    ($($file:literal),*) => {
        &[$(($file, include_str!(concat!("../../../../guest-sdk/c/", $file)))),*]
    };
}
const SDK: Files = sdk!(
    "slotd.h",
    "internal.h",
    "slotd.c",
    "json.c",
    "component.c",
    "libc.c",
    "slotd_test.h",
    "slotd_test.c"
);
/// The SDK's sources for a component, and for a test.
const SDK_COMPONENT: [&str; 4] = ["slotd.c", "json.c", "component.c", "libc.c"];
const SDK_TEST: [&str; 3] = ["slotd.c", "json.c", "slotd_test.c"];

/// Flags for all C, before the plugin's own `cflags`. The errors are those that C compilers only
/// warn about for the sake of old programs; the first keeps a query from writing.
const CFLAGS: [&str; 10] = [
    "-std=gnu17",
    "-Wall",
    "-Wextra",
    "-Werror=incompatible-pointer-types-discards-qualifiers",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
    "-Werror=implicit-function-declaration",
    "-Werror=return-type",
    "-ffunction-sections",
    "-fdata-sections",
];
/// Undefined behaviour ends the call, with a line of the source.
const CHECKS: &str = "-fsanitize=null,bounds,integer-divide-by-zero,signed-integer-overflow,\
                      shift,unreachable,return,vla-bound,float-cast-overflow,bool,enum,builtin,\
                      nonnull-attribute,returns-nonnull-attribute";
/// C's own stack, at the bottom of the memory, so that an overflow traps.
const STACK_BYTES: u32 = 256 * 1024;

pub(super) struct C;

#[derive(Deserialize)]
struct SlotdToml {
    plugin: Option<PluginTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginTable {
    name: String,
    version: String,
    /// Files, relative to the plugin's folder.
    sources: Vec<PathBuf>,
    /// Test programs are built from these and the sources. Default: `tests/*.c`.
    tests: Option<Vec<PathBuf>>,
    /// Further arguments to the compiler.
    #[serde(default)]
    cflags: Vec<String>,
    /// The JSON Schemas of its messages.
    types: Option<PathBuf>,
    /// Whether calls check for undefined behaviour.
    #[serde(default = "yes")]
    checks: bool,
}

fn yes() -> bool {
    true
}

fn manifest(dir: &Path) -> anyhow::Result<Option<PluginTable>> {
    let Some(text) = read_text(&dir.join(MANIFEST))? else { return Ok(None) };
    let file = dir.join(MANIFEST);
    let manifest: SlotdToml =
        toml::from_str(&text).with_context(|| format!("{} is invalid", file.display()))?;
    Ok(manifest.plugin)
}

impl PluginTable {
    fn of(dir: &Path) -> anyhow::Result<Self> {
        let plugin = manifest(dir)?.context("slotd.toml has no [plugin]")?;
        ensure!(
            !plugin.sources.is_empty(),
            "slotd.toml has no sources: sources = [\"src/handler.c\"]"
        );
        for file in plugin.sources.iter().chain(plugin.tests.iter().flatten()) {
            let path = dir.join(file);
            ensure!(path.is_file(), "slotd.toml names {}, which does not exist", file.display());
        }
        Ok(plugin)
    }

    fn tests(&self, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
        if let Some(tests) = &self.tests {
            return Ok(tests.clone());
        }
        let mut tests = Vec::new();
        for entry in fs::read_dir(dir.join("tests")).into_iter().flatten() {
            let name = PathBuf::from(entry?.file_name());
            if name.extension().is_some_and(|extension| extension == "c") {
                tests.push(Path::new("tests").join(name));
            }
        }
        tests.sort();
        Ok(tests)
    }
}

/// The compiler, and its arguments before the files.
struct Compiler<'a> {
    dir: &'a Path,
    clang: &'a Clang,
    args: Vec<OsString>,
    objects: PathBuf,
    steps: &'a Steps,
}

impl<'a> Compiler<'a> {
    /// Its objects go to a temporary folder of its own, because builds may run concurrently.
    fn new(dir: &'a Path, clang: &'a Clang, name: &str, steps: &'a Steps) -> anyhow::Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        let objects = Path::new(OWN_DIR).join("build").join(name);
        let made = dir.join(&objects);
        fs::create_dir_all(&made).with_context(|| format!("can't make {}", made.display()))?;
        Ok(Self { dir, clang, args: Vec::new(), objects, steps })
    }

    /// Compiles a file to an object. Paths are relative to the plugin's folder, as errors and the
    /// log then show them.
    fn object(&self, file: &Path, args: &[&str]) -> anyhow::Result<PathBuf> {
        let name = file.to_string_lossy().replace(['/', '\\'], "-");
        let object = self.objects.join(format!("{name}.o"));
        let mut clang = Command::new(&self.clang.path);
        clang.current_dir(self.dir).args(CFLAGS).args(&self.args).args(args);
        clang.arg("-c").arg(file).arg("-o").arg(&object);
        self.steps.run("", &mut clang)?;
        Ok(object)
    }

    fn sdk(&self, files: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let sdk = Path::new(OWN_DIR).join("sdk");
        files.iter().map(|file| self.object(&sdk.join(file), &[])).collect()
    }

    fn own(&self, files: &[PathBuf], args: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let sdk = format!("-I{OWN_DIR}/sdk");
        let args = [&[sdk.as_str()][..], args].concat();
        files.iter().map(|file| self.object(file, &args)).collect()
    }
}

impl Drop for Compiler<'_> {
    fn drop(&mut self) {
        // Leftovers are in slotd's own folder and do no harm there.
        _ = fs::remove_dir_all(self.dir.join(&self.objects));
    }
}

impl Language for C {
    fn manifest(&self) -> &'static str {
        MANIFEST
    }

    fn detect(&self, dir: &Path) -> anyhow::Result<bool> {
        Ok(manifest(dir)?.is_some())
    }

    fn templates(&self) -> Files {
        TEMPLATES
    }

    fn sdk(&self) -> Files {
        SDK
    }

    fn types(&self, dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        Ok(manifest(dir)?.and_then(|plugin| plugin.types))
    }

    fn package(&self, dir: &Path) -> anyhow::Result<Package> {
        let plugin = manifest(dir)?.context("slotd.toml has no [plugin]")?;
        Ok(Package { name: plugin.name, version: plugin.version })
    }

    fn build(&self, dir: &Path, _options: &BuildOptions, steps: &Steps) -> anyhow::Result<Built> {
        let plugin = PluginTable::of(dir)?;
        let toolchain = Toolchain::find()?;
        let PluginTable { name, version, sources, cflags, checks, .. } = plugin;
        steps.say(format_args!("building {name} {version} with {}", toolchain.clang));
        let does_not_build = || format!("{name} {version} does not build");
        let module = core_module(dir, &toolchain, &sources, &cflags, checks, steps)
            .with_context(does_not_build)?;
        let component = componentize(&module).with_context(does_not_build)?;
        let by = format!("{} and slotd", toolchain.clang);
        Ok(Built { package: Package { name, version }, component, by })
    }

    fn test(&self, dir: &Path, args: &[OsString], steps: &Steps) -> anyhow::Result<ExitStatus> {
        let plugin = PluginTable::of(dir)?;
        let tests = plugin.tests(dir)?;
        ensure!(!tests.is_empty(), "{} has no tests: they are the files tests/*.c", dir.display());
        let clang = Clang::find()?;
        let PluginTable { name, version, sources, cflags, .. } = plugin;
        steps.say(format_args!("building the tests of {name} {version} with {clang}"));
        let mut compiler = Compiler::new(dir, &clang, "tests", steps)?;
        let mut how = vec!["-g", "-O1"];
        if clang.has_sanitizers() {
            how.extend(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
        } else {
            steps.say(
                "memory is not checked: clang's sanitizers are not installed (libclang-rt-dev)",
            );
        }
        compiler.args.extend(how.iter().map(OsString::from));
        let cflags: Vec<_> = cflags.iter().map(String::as_str).collect();
        let mut objects = compiler.sdk(&SDK_TEST)?;
        objects.extend(compiler.own(&sources, &cflags)?);
        objects.extend(compiler.own(&tests, &cflags)?);
        let program = compiler.objects.join("tests");
        let mut link = Command::new(&clang.path);
        link.current_dir(dir).args(how).args(objects).arg("-o").arg(&program).arg("-lm");
        steps.run("", &mut link)?;
        steps.pass("", Command::new(dir.join(program)).current_dir(dir).args(args))
    }
}

fn core_module(
    dir: &Path,
    toolchain: &Toolchain,
    sources: &[PathBuf],
    cflags: &[String],
    checks: bool,
    steps: &Steps,
) -> anyhow::Result<Vec<u8>> {
    let Toolchain { clang, linker, include, lib, builtins } = toolchain;
    let mut compiler = Compiler::new(dir, clang, "component", steps)?;
    compiler.args.extend(["--target=wasm32-wasip1", "-Os", "-isystem"].map(OsString::from));
    compiler.args.push(include.into());
    let mut own = Vec::new();
    if checks {
        own.extend([CHECKS, "-fno-sanitize-recover=all"]);
    }
    own.extend(cflags.iter().map(String::as_str));
    let mut objects = compiler.own(sources, &own)?;
    objects.extend(compiler.sdk(&SDK_COMPONENT)?);
    let module = compiler.objects.join("module.wasm");
    let mut link = Command::new(linker);
    // Without `--strip-all`: the names of functions show where a trap was.
    link.current_dir(dir).args(["--strip-debug", "--gc-sections", "--entry=_initialize"]);
    link.args(["--stack-first", "-z", &format!("stack-size={STACK_BYTES}")]);
    link.arg(lib.join("crt1-reactor.o")).args(objects);
    link.arg("-L").arg(lib).args(["-lm", "-lc"]).arg(builtins).arg("-o").arg(&module);
    steps.run("", &mut link)?;
    let module = dir.join(module);
    fs::read(&module).with_context(|| format!("reading what was linked, {}", module.display()))
}

#[cfg(test)]
mod tests;
