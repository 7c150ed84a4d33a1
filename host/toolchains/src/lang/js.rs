//! JavaScript and TypeScript: `package.json` with a key `"slotd"`. npm fetches the tools that build
//! a component; Node.js runs them, and the tests.

use super::{BuildOptions, Built, Language, Package};
use crate::{
    WIT,
    sdk::{self, Files},
    steps::Steps,
    texts::read_text,
    tools::{self, Tools},
};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

pub(super) const MANIFEST: &str = "package.json";
/// Required by the SDK and its tools: `isWellFormed`, `node --test`.
const NODE_MAJOR_MIN: u32 = 20;

macro_rules! files {
    ($of:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../", $of, "/", $path)))),+]
    };
}

/// The SDK without the interface itself.
const SDK: Files = files!["guest-sdk/js":
    "README.md",
    "build/bundle.mjs",
    "build/component.mjs",
    "build/tests.mjs",
    "package.json",
    "src/client.js",
    "src/context.js",
    "src/error.js",
    "src/expire.js",
    "src/format.js",
    "src/globals.d.ts",
    "src/globals.js",
    "src/handler.js",
    "src/http.js",
    "src/index.d.ts",
    "src/index.js",
    "src/json.js",
    "src/raw.d.ts",
    "src/raw.js",
    "src/reply.js",
    "src/sends.js",
    "src/state.js",
    "src/test-http.js",
    "src/test.d.ts",
    "src/test.js",
    "src/timers.js",
    "src/trace.js",
    "src/utf8.js",
    "src/wasm.js",
    "wit/deps/cli.wit",
    "wit/deps/random.wit",
    "wit/world.wit",
];
const SDK_WITH_WIT: &[(&str, &str); SDK.len() + 1] = &{
    let mut files = [("wit/deps/slot.wit", WIT); SDK.len() + 1];
    let mut i = 0;
    while i < SDK.len() {
        files[i] = SDK[i];
        i += 1;
    }
    files
};

/// The two differ in the template, the entry's extension, and whether there are types to check.
pub(super) struct Script {
    typed: bool,
    templates: Files,
    /// `package.json` and `package-lock.json` for npm.
    tools: [&'static str; 2],
    tools_name: &'static str,
}

pub(super) const JAVASCRIPT: Script = Script {
    typed: false,
    templates: files!["host/toolchains/templates/js":
        "package.json",
        "src/handler.js",
        "test/handler.test.js",
        "jsconfig.json",
        ".gitignore",
        "README.md",
    ],
    tools: [
        include_str!("../../../../guest-sdk/js/tools/js/package.json"),
        include_str!("../../../../guest-sdk/js/tools/js/package-lock.json"),
    ],
    tools_name: "js",
};

pub(super) const TYPESCRIPT: Script = Script {
    typed: true,
    templates: files!["host/toolchains/templates/ts":
        "package.json",
        "src/handler.ts",
        "test/handler.test.ts",
        "tsconfig.json",
        ".gitignore",
        "README.md",
    ],
    tools: [
        include_str!("../../../../guest-sdk/js/tools/ts/package.json"),
        include_str!("../../../../guest-sdk/js/tools/ts/package-lock.json"),
    ],
    tools_name: "ts",
};

#[derive(Deserialize)]
struct PackageJson {
    name: Option<String>,
    version: Option<String>,
    slotd: Option<SlotdKey>,
    #[serde(default)]
    dependencies: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct SlotdKey {
    /// The file that exports the handler.
    entry: String,
    /// The JSON Schemas of its messages.
    types: Option<PathBuf>,
}

impl SlotdKey {
    fn is_typed(&self) -> bool {
        [".ts", ".mts", ".cts"].iter().any(|end| self.entry.ends_with(end))
    }
}

fn manifest(dir: &Path) -> anyhow::Result<Option<PackageJson>> {
    let Some(text) = read_text(&dir.join(MANIFEST))? else { return Ok(None) };
    let file = dir.join(MANIFEST);
    let manifest: PackageJson =
        serde_json::from_str(&text).with_context(|| format!("{} is invalid", file.display()))?;
    Ok(Some(manifest))
}

impl Language for Script {
    fn manifest(&self) -> &'static str {
        MANIFEST
    }

    fn detect(&self, dir: &Path) -> anyhow::Result<bool> {
        let key = manifest(dir)?.and_then(|manifest| manifest.slotd);
        Ok(key.is_some_and(|key| key.is_typed() == self.typed))
    }

    fn templates(&self) -> Files {
        self.templates
    }

    fn sdk(&self) -> Files {
        SDK_WITH_WIT
    }

    fn types(&self, dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        Ok(manifest(dir)?.and_then(|manifest| manifest.slotd?.types))
    }

    fn reads_declarations(&self) -> bool {
        true
    }

    fn package(&self, dir: &Path) -> anyhow::Result<Package> {
        let manifest = manifest(dir)?.context("package.json is missing")?;
        let name = manifest.name.context("package.json has no \"name\"")?;
        let version = manifest.version.context("package.json has no \"version\"")?;
        // A scope is for npm and not part of a file name.
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Package { name, version })
    }

    fn build(&self, dir: &Path, _options: &BuildOptions, steps: &Steps) -> anyhow::Result<Built> {
        let package = self.package(dir)?;
        let entry =
            manifest(dir)?.and_then(|m| m.slotd).context("package.json has no \"slotd\"")?;
        let entry = entry.entry;
        ensure!(
            dir.join(&entry).is_file(),
            "{entry} does not exist; \"slotd\": {{\"entry\": ..}} of package.json names it"
        );
        let node = Node::find()?;
        let tools = self.fetched(dir, &node, steps)?;
        dependencies(dir, &node, steps)?;
        if self.typed {
            check_types(dir, &node, &tools, steps)?;
        }
        let component = steps.read(
            &format!("making a component of {entry}"),
            node.script(dir, "component.mjs").arg(dir).arg(&entry).arg(&tools),
        )?;
        Ok(Built {
            package,
            component,
            by: format!("componentize-qjs {}", self.version_of("componentize-qjs")),
        })
    }

    fn test(&self, dir: &Path, args: &[OsString], steps: &Steps) -> anyhow::Result<ExitStatus> {
        let node = Node::find()?;
        let tools = self.fetched(dir, &node, steps)?;
        dependencies(dir, &node, steps)?;
        let bundles = steps.read("", node.script(dir, "tests.mjs").arg(dir).arg(&tools))?;
        let bundles = String::from_utf8(bundles).context("a test's name is not UTF-8")?;
        ensure!(
            !bundles.is_empty(),
            "{} has no tests: files that end in .test.js or .test.ts",
            dir.display()
        );
        // Traces refer to the sources, not to the bundles.
        let mut command = node.command();
        command.current_dir(dir).args(["--enable-source-maps", "--test"]);
        steps.pass("testing with node --test", command.args(args).args(bundles.lines()))
    }
}

impl Script {
    /// esbuild and componentize-qjs, and TypeScript if there are types.
    fn fetched(&self, dir: &Path, node: &Node, steps: &Steps) -> anyhow::Result<PathBuf> {
        let [package, lock] = self.tools;
        Tools::of(dir)?.ensure(self.tools_name, &(package.to_owned() + lock), steps, |empty| {
            for (file, text) in [(MANIFEST, package), ("package-lock.json", lock)] {
                fs::write(empty.join(file), text).with_context(|| format!("writing {file}"))?;
            }
            let tools = ["componentize-qjs", "esbuild", "typescript"];
            let tools: Vec<_> = tools
                .into_iter()
                .filter(|tool| self.typed || *tool != "typescript")
                .map(|tool| format!("{tool} {}", self.version_of(tool)))
                .collect();
            let mut npm = node.npm()?;
            npm.arg("ci").args(QUIETLY).arg("--ignore-scripts").current_dir(empty);
            steps.run(&format!("fetching {} with npm", tools.join(", ")), &mut npm)
        })
    }

    /// The version that is pinned.
    fn version_of(&self, tool: &str) -> String {
        let pinned = serde_json::from_str::<PackageJson>(self.tools[0]).ok();
        pinned.and_then(|mut pinned| pinned.dependencies.remove(tool)).unwrap_or_default()
    }
}

const QUIETLY: [&str; 4] = ["--no-audit", "--no-fund", "--loglevel", "error"];

/// The handler's own npm packages. Once installed, the author maintains them.
fn dependencies(dir: &Path, node: &Node, steps: &Steps) -> anyhow::Result<()> {
    let some = manifest(dir)?.is_some_and(|manifest| !manifest.dependencies.is_empty());
    if !some || dir.join("node_modules").exists() {
        return Ok(());
    }
    let how = if dir.join("package-lock.json").exists() { "ci" } else { "install" };
    let mut npm = node.npm()?;
    npm.arg(how).args(QUIETLY).current_dir(dir);
    steps.run(&format!("fetching the plugin's dependencies with npm {how}"), &mut npm)
}

fn check_types(dir: &Path, node: &Node, tools: &Path, steps: &Steps) -> anyhow::Result<()> {
    let config = dir.join("tsconfig.json");
    if !config.is_file() {
        steps.say("no tsconfig.json, so types are not checked");
        return Ok(());
    }
    let mut tsc = node.command();
    tsc.arg(tools.join("node_modules/typescript/bin/tsc"));
    tsc.args(["--noEmit", "--project"]).arg(config).current_dir(dir);
    steps.run("checking the types", &mut tsc)
}

struct Node(PathBuf);

impl Node {
    fn find() -> anyhow::Result<Self> {
        let get = format!(
            "install Node.js {NODE_MAJOR_MIN} or newer, with npm: https://nodejs.org/en/download, \
             or your system's packages `nodejs` and `npm`"
        );
        let node = tools::need("Node.js", &["node", "nodejs"], "SLOTD_NODEJS", &get)?;
        let output = Command::new(&node)
            .arg("--version")
            .output()
            .with_context(|| format!("starting `{} --version`", node.display()))?;
        let version = String::from_utf8_lossy(&output.stdout);
        match major(&version) {
            Some(major) if major >= NODE_MAJOR_MIN => Ok(Self(node)),
            Some(_) => {
                bail!("{} is Node.js {}, which is too old\n  {get}", node.display(), version.trim())
            }
            None => bail!(
                "{} did not print a Node.js version: {:?}\n  {get}",
                node.display(),
                version.trim()
            ),
        }
    }

    fn command(&self) -> Command {
        Command::new(&self.0)
    }

    /// A script of the SDK in the plugin's folder.
    fn script(&self, dir: &Path, name: &str) -> Command {
        let mut command = self.command();
        command.arg(dir.join(sdk::OWN_DIR).join("sdk/build").join(name)).current_dir(dir);
        command
    }

    fn npm(&self) -> anyhow::Result<Command> {
        let get = "it comes with Node.js from https://nodejs.org/en/download; on Debian and \
            Ubuntu it is separate: `apt install npm`";
        let npm = tools::need("npm", &["npm"], "SLOTD_NPM", get)?;
        let mut command = Command::new(npm);
        // It searches `node` in the path itself.
        if let (Some(dir), Some(path)) = (self.0.parent(), std::env::var_os("PATH")) {
            let dirs = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
            if let Ok(path) = std::env::join_paths(dirs) {
                command.env("PATH", path);
            }
        }
        Ok(command)
    }
}

/// `20` of `v20.20.2`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An SDK file that is not embedded would be missing in every plugin.
    #[test]
    fn the_whole_sdk_is_carried_along() -> anyhow::Result<()> {
        fn files(dir: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                match path.is_dir() {
                    true => files(&path, found)?,
                    false => found.push(path),
                }
            }
            Ok(())
        }
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk/js");
        let mut found = Vec::new();
        files(&sdk, &mut found)?;
        let mut found: Vec<_> = found
            .iter()
            .filter_map(|path| path.strip_prefix(&sdk).ok()?.to_str())
            .filter(|path| !["tools/", "test/"].iter().any(|apart| path.starts_with(apart)))
            .collect();
        found.push("wit/deps/slot.wit");
        found.sort_unstable();
        let mut carried: Vec<_> = JAVASCRIPT.sdk().iter().map(|(path, _)| *path).collect();
        carried.sort_unstable();
        assert_eq!(carried, found);
        Ok(())
    }

    /// A registry's address in a lock file would be used on every machine, whatever its npm
    /// settings; without the checksums other content would go unnoticed.
    #[test]
    fn tools_are_pinned_by_content_alone() {
        for script in [JAVASCRIPT, TYPESCRIPT] {
            let [package, lock] = script.tools;
            assert!(!lock.contains("\"resolved\"") && !lock.contains("://"), "{package}");
            let lock: serde_json::Value = serde_json::from_str(lock).unwrap();
            let packages = lock["packages"].as_object().unwrap();
            assert!(packages.len() > 2);
            for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
                assert!(package["integrity"].as_str().is_some_and(|sum| !sum.is_empty()), "{name}");
            }
            for tool in ["componentize-qjs", "esbuild"] {
                let entry = &packages[&format!("node_modules/{tool}")];
                assert_eq!(entry["version"].as_str(), Some(&*script.version_of(tool)));
            }
        }
    }

    /// An old Node.js would fail with an error about a missing function.
    #[test]
    fn versions_of_node_are_read() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("v8.0.0"), Some(8));
        assert_eq!(major("usage: node"), None);
    }
}
