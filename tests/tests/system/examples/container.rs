//! `Dockerfile`.

use super::*;

/// A Dockerfile, as far as slotd's is read.
pub struct Dockerfile {
    /// Instruction and the rest, in order; continued lines are joined.
    instructions: Vec<(String, String)>,
    /// Of the last stage.
    pub env: BTreeMap<String, String>,
}

impl Dockerfile {
    pub fn read() -> anyhow::Result<Self> {
        let text = read("Dockerfile")?;
        let mut instructions: Vec<(String, String)> = Vec::new();
        let mut continued = false;
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let (part, more) = match line.strip_suffix('\\') {
                Some(part) => (part, true),
                None => (line, false),
            };
            if continued {
                let last = instructions.last_mut().context("nothing to continue")?;
                last.1.push(' ');
                last.1.push_str(part.trim());
            } else if let Some((word, rest)) = part.trim().split_once(' ') {
                instructions.push((word.to_owned(), rest.trim().to_owned()));
            }
            continued = more;
        }
        let last = instructions.iter().rposition(|(word, _)| word == "FROM").context("no FROM")?;
        let env = instructions[last..].iter().filter(|(word, _)| word == "ENV");
        let env = env.flat_map(|(_, rest)| rest.split_whitespace());
        let env = env.filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into()));
        Ok(Self { env: env.collect(), instructions })
    }

    fn all(&self, word: &'static str) -> impl Iterator<Item = &str> {
        let found = self.instructions.iter().filter(move |(w, _)| w == word);
        found.map(|(_, rest)| rest.as_str())
    }

    fn last(&self, word: &'static str) -> anyhow::Result<&str> {
        self.all(word).last().with_context(|| format!("no {word}"))
    }

    /// Who it runs as, `uid:gid`.
    pub fn user(&self) -> anyhow::Result<&str> {
        self.last("USER")
    }

    /// The program that it runs.
    pub fn program(&self) -> anyhow::Result<String> {
        let words: Vec<String> = serde_json::from_str(self.last("ENTRYPOINT")?)?;
        words.into_iter().next().context("an empty ENTRYPOINT")
    }
}

/// Without it, the image could be built by another compiler than slotd is tested with, run as root,
/// or expose other ports than it listens on.
#[test]
fn the_image_is_what_slotd_needs() {
    scenario(async {
        let file = Dockerfile::read()?;
        let root = folder().join("..");
        let toolchain = fs::read_to_string(root.join("rust-toolchain.toml"))?;
        let channel =
            toolchain.split("channel = \"").nth(1).and_then(|rest| rest.split('"').next());
        let channel = channel.context("no channel")?;
        let stages: Vec<&str> = file.all("FROM").collect();
        let [build, last] = &stages[..] else { anyhow::bail!("two stages, not {stages:?}") };
        ensure!(*build == format!("rust:{channel}-bookworm AS build"), "{build}");
        let pinned = file.all("ENV").any(|env| env == format!("RUSTUP_TOOLCHAIN={channel}"));
        ensure!(pinned, "rustup would fetch what rust-toolchain.toml names for plugins");
        // The same C library as the one that it was linked with: bookworm is Debian 12.
        ensure!(*last == "gcr.io/distroless/cc-debian12:nonroot", "{last}");

        let program = file.program()?;
        let copies: Vec<&str> = file.all("COPY").collect();
        ensure!(copies.contains(&&*format!("--from=build /out/slotd {program}")), "{copies:?}");
        let run = file.all("RUN").next().context("no RUN")?;
        ensure!(run.contains("--locked -p slotd --bin slotd"), "{run}");
        ensure!(file.last("CMD")? == "[\"serve\"]", "{:?}", file.last("CMD"));
        let health = file.last("HEALTHCHECK")?;
        ensure!(health.ends_with(&format!("CMD [\"{program}\", \"ready\"]")), "{health}");

        let user = file.user()?;
        let numeric = user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0));
        ensure!(numeric, "Kubernetes can't see that {user} is not root");
        let config = config(&file.env, &[]).await?;
        let data = format!("--chown={user} /out/data {}", config["data_dir"]);
        ensure!(copies.iter().any(|copy| copy.ends_with(&data)), "{copies:?} without {data}");
        let exposed: BTreeSet<&str> = file.all("EXPOSE").collect();
        let [api, admin, peer] = ["api.listen", "admin.listen", "cluster.listen"]
            .map(|key| port(&config[key]).unwrap_or_default());
        let expected = [
            format!("{api}/tcp"),
            format!("{admin}/tcp"),
            format!("{peer}/tcp"),
            format!("{peer}/udp"),
        ];
        ensure!(exposed == expected.iter().map(String::as_str).collect(), "{exposed:?}");

        // What the build copies is there: nothing of it is ignored.
        let ignored = read("Dockerfile.dockerignore")?;
        for needed in ["Cargo.toml", "Cargo.lock", "host", "wit", "guest-sdk", "tests", "xtask"] {
            ensure!(root.join(needed).exists(), "{needed} is not there");
            ensure!(!ignored.lines().any(|line| line == needed), "{needed} is ignored");
        }
        Ok(())
    });
}
