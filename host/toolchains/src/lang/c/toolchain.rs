//! The tools that build C: clang, its linker for WebAssembly, wasi-libc, and the compiler's own
//! library. Each distribution installs them elsewhere.

use crate::{lang::debian, tools};
use anyhow::bail;
use serde::Serialize;
use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Names another compiler; ignored if it is not clang, since it has other uses too.
const CC: &str = "CC";
/// Names wasi-libc's folder: the one with `include` and `lib`.
const SYSROOT: &str = "WASI_SYSROOT";
/// The folder of an unpacked WASI SDK, which has everything.
const WASI_SDK: &str = "WASI_SDK_PATH";
/// The versions that are searched by name, after `clang`.
const VERSIONS: std::ops::RangeInclusive<u32> = 14..=26;
/// Names of the target, the newer first: older compilers and libraries know only the second.
const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasi"];
/// wasi-libc's folders: Debian's, Arch's and Alpine's, Homebrew's.
const SYSROOTS: [&str; 4] = [
    "/usr",
    "/usr/share/wasi-sysroot",
    "/opt/homebrew/opt/wasi-libc/share/wasi-sysroot",
    "/usr/local/opt/wasi-libc/share/wasi-sysroot",
];

/// A compiler for programs of this machine.
#[derive(Clone, Debug)]
pub struct Clang {
    pub path: PathBuf,
    /// As in `clang version 19.1.7`.
    pub version: String,
}

/// Everything needed to make a core module.
#[derive(Clone, Debug)]
pub struct Toolchain {
    pub clang: Clang,
    pub linker: PathBuf,
    pub include: PathBuf,
    pub lib: PathBuf,
    pub builtins: PathBuf,
}

/// What a compiler lacks to make a core module.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    Linker,
    Libc,
    Builtins,
}

impl Clang {
    /// The first clang found.
    ///
    /// # Errors
    /// If there is none, with the way to get it.
    pub fn find() -> anyhow::Result<Self> {
        match candidates().next() {
            Some(clang) => Ok(clang),
            None => bail!("{}", Lack { clang: None, missing: &[] }),
        }
    }

    fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }

    /// What it prints when asked for a path.
    fn ask(&self, args: &[&str]) -> Option<PathBuf> {
        // It warns about target names that other versions know.
        let asked = Command::new(&self.path).args(args).stderr(Stdio::null()).output().ok()?;
        let path = PathBuf::from(String::from_utf8(asked.stdout).ok()?.trim());
        path.is_file().then_some(path)
    }

    fn linker(&self) -> Option<PathBuf> {
        let own = self.path.parent().map(|dir| dir.join("wasm-ld"));
        let versioned = self.major().map(|major| PathBuf::from(format!("wasm-ld-{major}")));
        versioned
            .and_then(|name| tools::find(&name))
            .or_else(|| self.ask(&["-print-prog-name=wasm-ld"]))
            .or_else(|| own.and_then(|path| tools::find(&path)))
            .or_else(|| tools::find(Path::new("wasm-ld")))
    }

    fn builtins(&self) -> Option<PathBuf> {
        TARGETS.iter().find_map(|target| {
            self.ask(&[&format!("--target={target}"), "-print-libgcc-file-name"])
        })
    }

    /// Whether it can check memory and undefined behaviour on this machine.
    pub fn has_sanitizers(&self) -> bool {
        let mut try_it = Command::new(&self.path);
        try_it.args(["-fsanitize=address,undefined", "-x", "c", "-", "-o", "/dev/null"]);
        let Ok(mut child) =
            try_it.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        else {
            return false;
        };
        if let Some(mut stdin) = child.stdin.take() {
            // The exit status shows if it did not work.
            _ = std::io::Write::write_all(&mut stdin, b"int main(void) { return 0; }\n");
        }
        child.wait().is_ok_and(|status| status.success())
    }
}

impl fmt::Display for Clang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clang {}", self.version)
    }
}

impl Toolchain {
    /// The first clang that has everything it needs.
    ///
    /// # Errors
    /// If there is none: what is missing, where it was searched, and the way to get it.
    pub fn find() -> anyhow::Result<Self> {
        let libc = libc();
        let mut nearest: Option<(Clang, Vec<Missing>)> = None;
        for clang in candidates() {
            let (linker, builtins) = (clang.linker(), clang.builtins());
            let mut missing = Vec::new();
            match (linker, &libc, builtins) {
                (Some(linker), Some((include, lib)), Some(builtins)) => {
                    let (include, lib) = (include.clone(), lib.clone());
                    return Ok(Self { clang, linker, include, lib, builtins });
                }
                (linker, libc, builtins) => {
                    missing.extend(linker.is_none().then_some(Missing::Linker));
                    missing.extend(libc.is_none().then_some(Missing::Libc));
                    missing.extend(builtins.is_none().then_some(Missing::Builtins));
                }
            }
            if nearest.as_ref().is_none_or(|(_, most)| missing.len() < most.len()) {
                nearest = Some((clang, missing));
            }
        }
        let (clang, missing) = nearest.unzip();
        let lack = Lack { clang: clang.as_ref(), missing: missing.as_deref().unwrap_or_default() };
        bail!("{lack}")
    }
}

/// The clangs of this machine, the user's choice first.
fn candidates() -> impl Iterator<Item = Clang> {
    let named = env::var_os(CC).filter(|cc| !cc.is_empty()).map(PathBuf::from);
    let sdk = env::var_os(WASI_SDK).map(|sdk| Path::new(&sdk).join("bin/clang"));
    let versions = VERSIONS.rev().map(|version| PathBuf::from(format!("clang-{version}")));
    let names = named.into_iter().chain(sdk).chain([PathBuf::from("clang")]).chain(versions);
    names.filter_map(|name| {
        let path = tools::find(&name)?;
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(Clang { path, version: version(&output)?.to_owned() })
    })
}

/// From what `clang --version` says: `Debian clang version 14.0.6`.
fn version(output: &str) -> Option<&str> {
    let (_, rest) = output.split_once("clang version ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    (end > 0).then_some(&rest[..end])
}

/// wasi-libc's headers and libraries.
fn libc() -> Option<(PathBuf, PathBuf)> {
    let named = env::var_os(SYSROOT).filter(|root| !root.is_empty()).map(PathBuf::from);
    let sdk = env::var_os(WASI_SDK).map(|sdk| Path::new(&sdk).join("share/wasi-sysroot"));
    let roots = named.into_iter().chain(sdk).chain(SYSROOTS.map(PathBuf::from));
    roots
        .flat_map(|root| TARGETS.map(|t| (root.join("include").join(t), root.join("lib").join(t))))
        .find(|(include, lib)| {
            include.join("stdlib.h").is_file() && lib.join("crt1-reactor.o").is_file()
        })
}

/// Debian's packages for everything, including the sanitizers for tests.
pub const PACKAGES: [&str; 5] =
    ["clang", "lld", "libclang-rt-dev-wasm32", "libclang-rt-dev", "wasi-libc"];

/// The result of a setup.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// As `clang 19.1.7`.
    pub by: String,
    /// Whether tests find bad memory accesses.
    pub sanitizers: bool,
    /// The commands that were run; empty if everything was there.
    pub did: Vec<String>,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for did in &self.did {
            writeln!(f, "done: {did}")?;
        }
        let already = if self.did.is_empty() { ", already there" } else { "" };
        let without = if self.sanitizers { "" } else { ", without sanitizers for tests" };
        write!(f, "C plugins are built by {}{without}{already}", self.by)
    }
}

/// Ensures that C plugins can be built: installs missing Debian packages.
///
/// # Errors
/// If that does not help: what was tried, and what is still missing.
pub fn setup() -> anyhow::Result<Setup> {
    let (mut did, mut failed) = (Vec::new(), Vec::new());
    let found = Toolchain::find().or_else(|_| {
        debian::install(&PACKAGES, &mut did, &mut failed);
        Toolchain::find()
    });
    match found {
        Ok(Toolchain { clang, .. }) => {
            Ok(Setup { by: clang.to_string(), sanitizers: clang.has_sanitizers(), did })
        }
        Err(lack) if failed.is_empty() => Err(lack),
        Err(lack) => bail!("{lack}\ntried:\n  {}", failed.join("\n  ")),
    }
}

struct Lack<'a> {
    clang: Option<&'a Clang>,
    missing: &'a [Missing],
}

impl fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = "on Debian and Ubuntu, as root:\n  apt-get install --no-install-recommends";
        let path = env::var_os("PATH").unwrap_or_default();
        let Some(clang) = self.clang else {
            return write!(
                f,
                "clang is not installed: looked for clang, clang-{} and older in {}\n{get} {}\n\
                 elsewhere: the WASI SDK has all of it, with ${WASI_SDK} its folder\n\
                 ${CC} names another clang",
                VERSIONS.end(),
                path.display(),
                PACKAGES.join(" "),
            );
        };
        let major = clang.major().unwrap_or_default();
        writeln!(f, "{clang} ({}) can't build for WebAssembly here:", clang.path.display())?;
        let mut packages = Vec::new();
        for missing in self.missing {
            match missing {
                Missing::Linker => {
                    let path = path.display();
                    writeln!(
                        f,
                        "  its linker is missing: no wasm-ld-{major} or wasm-ld in {path}"
                    )?;
                    packages.push(format!("lld-{major}"));
                }
                Missing::Libc => {
                    let roots = SYSROOTS.join(", ");
                    writeln!(
                        f,
                        "  wasi-libc is missing: not in {roots}; ${SYSROOT} names another"
                    )?;
                    packages.push("wasi-libc".into());
                }
                Missing::Builtins => {
                    writeln!(f, "  its library is missing: libclang_rt.builtins-wasm32.a")?;
                    packages.push(format!("libclang-rt-{major}-dev-wasm32"));
                }
            }
        }
        write!(f, "{get} {}", packages.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distributions add words before and after it; gcc must not be mistaken for clang.
    #[test]
    fn a_compilers_version_is_read() {
        for (output, expected) in [
            ("Debian clang version 14.0.6\nTarget: x86_64", Some("14.0.6")),
            ("clang version 22.1.8 (1~deb12u1)", Some("22.1.8")),
            ("Apple clang version 17.0.0 (clang-1700.0.13.5)", Some("17.0.0")),
            ("clang version 21", Some("21")),
            ("cc (Debian 12.2.0-14) 12.2.0", None),
            ("clang version ", None),
        ] {
            assert_eq!(version(output), expected, "{output}");
        }
    }

    /// "No such file" would leave the user guessing which of four packages it is.
    #[test]
    fn what_is_missing_is_said_with_its_package() {
        let clang = Clang { path: "/usr/bin/clang-19".into(), version: "19.1.7".into() };
        let missing = &[Missing::Linker, Missing::Libc, Missing::Builtins];
        let message = Lack { clang: Some(&clang), missing }.to_string();
        for part in [
            "clang 19.1.7 (/usr/bin/clang-19)",
            "wasm-ld-19",
            "WASI_SYSROOT",
            "--no-install-recommends lld-19 wasi-libc libclang-rt-19-dev-wasm32",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let none = Lack { clang: None, missing: &[] }.to_string();
        assert!(none.contains("clang is not installed"), "{none}");
        assert!(none.contains("clang lld libclang-rt-dev-wasm32"), "{none}");
    }
}
