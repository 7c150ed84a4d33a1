//! Python: `pyproject.toml` with a table `[tool.slotd]`. pip fetches componentize-py, which puts
//! CPython and the plugin's modules into a component; the user's own Python runs it, and the tests.

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
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

pub(super) const MANIFEST: &str = "pyproject.toml";

/// The compiler, and the digests of its files: a `requirements.txt` for pip.
const REQUIREMENTS: &str = include_str!("python/requirements.txt");
const COMPILER: &str = "componentize-py 0.25.1";
const RUN_COMPILER: &str = include_str!("python/componentize.py");
/// The CPython version in the component; packages are chosen for it.
const PYTHON_IN_COMPONENT: &str = "3.14";
/// What componentize-py and the SDK require.
const PYTHON_MIN: (u32, u32) = (3, 10);
const GET_PYTHON: &str = "install Python 3.10 or newer: https://python.org, or `apt install python3 \
                          python3-pip`";
/// The component's entry module, generated at each build.
const ENTRY: &str = "slotd_entry";

const TEMPLATES: Files = &[
    ("types.json", include_str!("../../templates/python/types.json")),
    ("pyproject.toml", include_str!("../../templates/python/pyproject.toml.in")),
    ("handler.py", include_str!("../../templates/python/handler.py.in")),
    ("test_handler.py", include_str!("../../templates/python/test_handler.py.in")),
    (".gitignore", include_str!("../../templates/python/gitignore.in")),
    ("README.md", include_str!("../../templates/python/README.md.in")),
];

macro_rules! sdk {
    ($($file:literal),* $(,)?) => {
        &[
            ("wit/slot.wit", WIT),
            $((
                concat!("slotd_guest/", $file),
                include_str!(concat!("../../../../guest-sdk/python/slotd_guest/", $file)),
            )),*
        ]
    };
}
const SDK: Files = sdk![
    "__init__.py",
    "_build.py",
    "_call.py",
    "_client.py",
    "_component.py",
    "_context.py",
    "_errors.py",
    "_expire.py",
    "_handler.py",
    "_host.py",
    "_http.py",
    "_instance.py",
    "_json.py",
    "_logging.py",
    "_reply.py",
    "_schema.py",
    "_sends.py",
    "_state.py",
    "_testing_http.py",
    "_timers.py",
    "_trace.py",
    "_typed.py",
    "py.typed",
    "testing.py",
];

pub(super) struct Python;

#[derive(Deserialize)]
struct PyProject {
    project: Option<Project>,
    tool: Option<Tool>,
}

#[derive(Deserialize)]
struct Project {
    name: Option<String>,
    version: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Tool {
    slotd: Option<SlotdTable>,
    /// Exists if the tests are pytest's.
    pytest: Option<toml::Value>,
}

#[derive(Deserialize)]
struct SlotdTable {
    /// The module with the handler, or `module:Class`.
    entry: String,
    /// The JSON Schemas of its messages.
    types: Option<PathBuf>,
}

fn manifest(dir: &Path) -> anyhow::Result<Option<PyProject>> {
    let Some(text) = read_text(&dir.join(MANIFEST))? else { return Ok(None) };
    let file = dir.join(MANIFEST);
    let manifest: PyProject =
        toml::from_str(&text).with_context(|| format!("{} is invalid", file.display()))?;
    Ok(Some(manifest))
}

impl PyProject {
    fn entry(&self) -> anyhow::Result<&str> {
        let table = self.tool.as_ref().and_then(|tool| tool.slotd.as_ref());
        let entry = &table.context("pyproject.toml has no [tool.slotd]")?.entry;
        let names = entry.split([':', '.']);
        let is_name = |name: &str| {
            !name.starts_with(|c: char| c.is_ascii_digit())
                && !name.is_empty()
                && name.chars().all(|c| c == '_' || c.is_alphanumeric())
        };
        // It becomes part of a program.
        ensure!(
            names.clone().all(is_name) && entry.matches(':').count() <= 1,
            "[tool.slotd] entry = {entry:?} of pyproject.toml is neither a module, as \"handler\", \
             nor a class in one, as \"handler:Poll\""
        );
        Ok(entry)
    }

    fn dependencies(&self) -> &[String] {
        self.project.as_ref().map_or(&[], |project| &project.dependencies)
    }
}

/// The folder with the plugin's modules: its own, or `src`.
fn root(dir: &Path, entry: &str) -> anyhow::Result<PathBuf> {
    let module = entry.split(':').next().unwrap_or(entry).replace('.', "/");
    for root in [dir.to_owned(), dir.join("src")] {
        let (file, package) = (root.join(format!("{module}.py")), root.join(&module));
        if file.is_file() || package.join("__init__.py").is_file() {
            return Ok(root);
        }
    }
    bail!(
        "there is no {module}.py in {}, nor in its folder src: [tool.slotd] entry = {entry:?} of \
         pyproject.toml names it",
        dir.display()
    )
}

/// The user's Python.
struct Interpreter(PathBuf);

impl Interpreter {
    fn find() -> anyhow::Result<Self> {
        let names = ["python3", "python"];
        let program = tools::need("Python", &names, "SLOTD_PYTHON", GET_PYTHON)?;
        let mut command = Command::new(&program);
        let version = "import sys; print(sys.version_info[0], sys.version_info[1])";
        let output = command.args(["-c", version]).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("starting {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = text.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            bail!(
                "{} is not a working Python: asked for its version, it printed {:?} and {:?}\n  \
                 {GET_PYTHON}\n  or choose another with $SLOTD_PYTHON",
                program.display(),
                text.trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            )
        };
        ensure!(
            (major, minor) >= PYTHON_MIN,
            "{} is Python {major}.{minor}, which is too old\n  {GET_PYTHON}\n  or choose another \
             with $SLOTD_PYTHON",
            program.display()
        );
        Ok(Self(program))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        // The user's own settings are not for our programs.
        command.env_remove("PYTHONHOME").env_remove("PYTHONSTARTUP");
        command
    }

    /// `pip install` to a folder, ignoring packages that are installed elsewhere.
    fn pip_install(&self, into: &Path) -> anyhow::Result<Command> {
        let has_pip = self.command().args(["-m", "pip", "--version"]).output();
        ensure!(
            has_pip.is_ok_and(|output| output.status.success()),
            "pip is not installed for {}\n  install it with `apt install python3-pip`, or with \
             `{0} -m ensurepip --user`\n  or choose another Python with $SLOTD_PYTHON",
            self.0.display()
        );
        let mut pip = self.command();
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
            .args(["--no-compile", "--only-binary", ":all:", "--target"])
            .arg(into)
            .env("PIP_USER", "0")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .env_remove("PYTHONPATH");
        Ok(pip)
    }

    fn fetch_compiler(&self, tools: &Tools, steps: &Steps) -> anyhow::Result<PathBuf> {
        tools.ensure("python", REQUIREMENTS, steps, |into| {
            let requirements = into.join("requirements.txt");
            fs::write(&requirements, REQUIREMENTS)
                .with_context(|| format!("writing {}", requirements.display()))?;
            let mut pip = self.pip_install(into)?;
            pip.args(["--no-deps", "--require-hashes", "-r"]).arg(&requirements);
            steps.run(&format!("fetching {COMPILER} with pip"), &mut pip).context(
                "componentize-py can't be fetched: there is one for Linux with glibc 2.28 or \
                 newer, for macOS and for Windows",
            )
        })
    }

    /// The plugin's own dependencies, in a folder that looks like a virtual environment:
    /// componentize-py searches there besides its arguments, and would otherwise use packages that
    /// are installed on this machine. Empty if there are none.
    fn fetch_packages(
        &self,
        tools: &Tools,
        packages: &[String],
        steps: &Steps,
    ) -> anyhow::Result<PathBuf> {
        let pinned = format!("{PYTHON_IN_COMPONENT}\n{}\n", packages.join("\n"));
        tools.ensure("python-packages", &pinned, steps, |into| {
            let into = site_packages(into);
            fs::create_dir_all(&into).with_context(|| format!("making {}", into.display()))?;
            if packages.is_empty() {
                return Ok(());
            }
            let mut pip = self.pip_install(&into)?;
            pip.args(["--platform", "any", "--implementation", "py", "--abi", "none"])
                .args(["--python-version", PYTHON_IN_COMPONENT, "--"])
                .args(packages);
            let what = format!("fetching {} with pip", packages.join(", "));
            steps.run(&what, &mut pip).context(
                "can't install the [project] dependencies of pyproject.toml: a component takes \
                 pure Python only (packages with a py3-none-any wheel)",
            )
        })
    }
}

/// A temporary folder per build, because two may run concurrently.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Leftovers do no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn site_packages(environment: &Path) -> PathBuf {
    environment.join("lib").join("site-packages")
}

impl Language for Python {
    fn manifest(&self) -> &'static str {
        MANIFEST
    }

    fn detect(&self, dir: &Path) -> anyhow::Result<bool> {
        let tool = manifest(dir)?.and_then(|manifest| manifest.tool);
        Ok(tool.is_some_and(|tool| tool.slotd.is_some()))
    }

    fn templates(&self) -> Files {
        TEMPLATES
    }

    fn sdk(&self) -> Files {
        SDK
    }

    fn types(&self, dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        let table = manifest(dir)?.and_then(|manifest| manifest.tool?.slotd);
        Ok(table.and_then(|table| table.types))
    }

    fn package(&self, dir: &Path) -> anyhow::Result<Package> {
        let project = manifest(dir)?.and_then(|manifest| manifest.project);
        let project = project.context("pyproject.toml has no [project]")?;
        let name = project.name.context("[project] of pyproject.toml has no name")?;
        let version = project.version.context("[project] of pyproject.toml has no version")?;
        Ok(Package { name, version })
    }

    fn build(&self, dir: &Path, _options: &BuildOptions, steps: &Steps) -> anyhow::Result<Built> {
        let package = self.package(dir)?;
        let manifest = manifest(dir)?.context("pyproject.toml is missing")?;
        let entry = manifest.entry()?;
        let root = root(dir, entry)?;
        let python = Interpreter::find()?;
        let tools = Tools::of(dir)?;
        let compiler = python.fetch_compiler(&tools, steps)?;
        let packages = python.fetch_packages(&tools, manifest.dependencies(), steps)?;

        let own = dir.join(sdk::OWN_DIR);
        let build = Scratch(own.join(format!("build-{}", std::process::id())));
        let (program, out) = (build.0.join("componentize.py"), build.0.join("out.wasm"));
        let app = build.0.join("entry");
        let text = format!(
            "from slotd_guest._component import export\n\nWitWorld = export(\"{entry}\")\n"
        );
        fs::create_dir_all(&app)
            .and_then(|()| fs::write(app.join(format!("{ENTRY}.py")), text))
            .and_then(|()| fs::write(&program, RUN_COMPILER))
            .with_context(|| format!("writing to {}", build.0.display()))?;

        let sdk = own.join("sdk");
        let mut command = python.command();
        command.arg(&program).arg("-d").arg(sdk.join("wit")).args(["-w", "handler"]);
        command.arg("componentize");
        for folder in [&app, &root, &sdk] {
            command.arg("-p").arg(folder);
        }
        command
            .arg(ENTRY)
            .arg("-o")
            .arg(&out)
            .env("PYTHONPATH", &compiler)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("VIRTUAL_ENV", &packages)
            // Of the compiler's own code, which is not where the error is.
            .env("RUST_BACKTRACE", "0");
        let what = format!("building {} {} with {COMPILER}", package.name, package.version);
        steps.run(&what, &mut command)?;
        let component = fs::read(&out).with_context(|| format!("{COMPILER} wrote nothing"))?;
        Ok(Built { package, component, by: COMPILER.to_owned() })
    }

    fn test(&self, dir: &Path, args: &[OsString], steps: &Steps) -> anyhow::Result<ExitStatus> {
        let manifest = manifest(dir)?.context("pyproject.toml is missing")?;
        let root = root(dir, manifest.entry()?)?;
        let python = Interpreter::find()?;
        let mut path = vec![dir.join(sdk::OWN_DIR).join("sdk"), root];
        if !manifest.dependencies().is_empty() {
            let packages =
                python.fetch_packages(&Tools::of(dir)?, manifest.dependencies(), steps)?;
            path.push(site_packages(&packages));
        }
        let theirs = env::var_os("PYTHONPATH").unwrap_or_default();
        path.extend(env::split_paths(&theirs).filter(|path| !path.as_os_str().is_empty()));
        let path = env::join_paths(path).context("a folder's name contains a colon")?;
        // According to pytest's documentation, a project configures it in its table.
        let pytest = manifest.tool.is_some_and(|tool| tool.pytest.is_some());
        let runner = if pytest { "pytest" } else { "unittest" };
        let mut command = python.command();
        command.args(["-m", runner]).args(args).current_dir(dir).env("PYTHONPATH", path);
        steps.pass("", &mut command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An SDK file that is not listed would be missing in each component, and only there.
    #[test]
    fn the_whole_sdk_is_carried() -> anyhow::Result<()> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk/python/slotd_guest");
        let mut there = vec!["wit/slot.wit".to_owned()];
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "__pycache__" {
                there.push(format!("slotd_guest/{name}"));
            }
        }
        let mut carried: Vec<_> = SDK.iter().map(|(name, _)| (*name).to_owned()).collect();
        there.sort();
        carried.sort();
        assert_eq!(carried, there);
        Ok(())
    }

    /// The entry becomes part of a program: an invalid name must not get into it.
    #[test]
    fn entries_are_names() -> anyhow::Result<()> {
        let entry = |entry: &str| -> anyhow::Result<bool> {
            let manifest: PyProject = toml::from_str(&format!("[tool.slotd]\nentry = {entry:?}"))?;
            Ok(manifest.entry().is_ok())
        };
        for good in ["handler", "a.b_2:Poll", "größe"] {
            assert!(entry(good)?, "{good}");
        }
        for bad in ["", "a b", "a\"", "handler.py:", "a:b:c", "2a", "a/b", ".a"] {
            assert!(!entry(bad)?, "{bad}");
        }
        Ok(())
    }

    /// From componentize-py it would be a traceback.
    #[test]
    fn a_missing_module_is_said() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let error = root(dir.path(), "app.handler:Poll").unwrap_err().to_string();
        assert!(error.contains("there is no app/handler.py"), "{error}");
        fs::create_dir_all(dir.path().join("src/app"))?;
        fs::write(dir.path().join("src/app/handler.py"), "")?;
        assert_eq!(root(dir.path(), "app.handler:Poll")?, dir.path().join("src"));
        Ok(())
    }
}
