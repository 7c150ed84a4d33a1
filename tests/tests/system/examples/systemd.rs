//! `systemd/`.

use super::*;
use slotd_tests::notice::not_tested;

/// Key and value, in order, by section.
fn unit(text: &str) -> anyhow::Result<BTreeMap<String, Vec<(String, String)>>> {
    let mut sections: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if !line.is_empty() && !line.starts_with('#') {
            let (key, value) = line.split_once('=').with_context(|| format!("no key: {line}"))?;
            let entry = sections.entry(section.clone()).or_default();
            entry.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(sections)
}

/// Without it, the unit could start a node that refuses its configuration, kill one that gives its
/// slots away, or start one again that can't work.
#[test]
fn the_unit_fits_the_node() {
    scenario(async {
        let text = read("systemd/slotd.service")?;
        let unit = unit(&text)?;
        ensure!(unit.keys().eq(["Install", "Service", "Unit"]), "{unit:?}");
        let service = &unit["Service"];
        let all = |key: &str| -> Vec<&str> {
            service.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect()
        };
        let one = |key: &str| match all(key)[..] {
            [value] => Ok(value),
            ref values => Err(anyhow::anyhow!("{key} is given {} times", values.len())),
        };

        let start: Vec<&str> = one("ExecStart")?.split_whitespace().collect();
        let [program, "serve", "--config", file] = start[..] else { anyhow::bail!("{start:?}") };
        ensure!(program == "/usr/local/bin/slotd", "{program}");
        // Each variable and each file that is named is one that the head says how to make.
        ensure!(
            file == "/etc/slotd/slotd.toml" && text.contains("slotd.toml /etc/slotd/"),
            "{file}"
        );
        let mut env = BTreeMap::new();
        let credentials: BTreeSet<&str> =
            all("LoadCredential").iter().filter_map(|c| Some(c.split_once(':')?.0)).collect();
        for pair in all("Environment") {
            let (name, value) = pair.split_once('=').context("no value")?;
            let credential = value.strip_prefix("%d/").with_context(|| pair.to_owned())?;
            ensure!(credentials.contains(credential), "{pair}: no such credential");
            ensure!(text.contains(&format!("/etc/slotd/{credential}")), "{credential}");
            env.insert(name.to_owned(), value.to_owned());
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("#   SLOTD_")) {
            let (name, value) = line.split_once('=').context("an assignment")?;
            env.insert(format!("SLOTD_{name}"), value.to_owned());
        }
        let scratch = tempfile::tempdir()?;
        let env = with_secret_files(env, scratch.path())?;
        let toml = folder().join("systemd/slotd.toml").display().to_string();
        let config = config(&env, &["--config", &toml]).await?;
        let servers = config.get("nats.servers").context("not a cluster's")?;
        let monitors = servers.replace("nats://", "http://").replace(":4222", ":8222");
        ensure!(config["nats.monitor"] == monitors, "it can't see that all servers sync");

        let grace = seconds(&config["shutdown_grace"])?;
        let stop: f64 = one("TimeoutStopSec")?.parse()?;
        ensure!(stop > grace + OVERTIME, "it is killed after {stop} s");
        let state = format!("/var/lib/{}", one("StateDirectory")?);
        ensure!(config["data_dir"] == state, "{} is not {state}", config["data_dir"]);
        ensure!(one("Type")? == "exec" && one("KillSignal")? == "SIGTERM");
        ensure!(one("Restart")? == "on-failure", "a drained node must stay away");
        // The exit codes of which docs/cli.md says so.
        let codes = one("RestartPreventExitStatus")?.split(' ').collect::<Vec<_>>();
        let cli = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
        let sentence = format!("exited with {}: it would fail again", codes.join(" or "));
        ensure!(
            fs::read_to_string(cli)?.contains(&sentence),
            "docs/cli.md does not say: {sentence}"
        );
        for (key, value) in [
            ("DynamicUser", "yes"),
            ("NoNewPrivileges", "yes"),
            ("CapabilityBoundingSet", ""),
            ("ProtectSystem", "strict"),
            ("PrivateDevices", "yes"),
        ] {
            ensure!(one(key)? == value, "{key}");
        }
        // Cranelift's code is written, then executed.
        ensure!(all("MemoryDenyWriteExecute").is_empty(), "plugins could not run");
        ensure!(one("RestrictAddressFamilies")?.contains("AF_INET AF_INET6"));

        // systemd's own word on the names and values.
        let copy = scratch.path().join("slotd.service");
        fs::write(&copy, text.replace(program, "/bin/true"))?;
        let mut verify = Command::new("systemd-analyze");
        verify.arg("verify").arg(&copy);
        match finish(verify).await {
            Err(error) => not_tested(&format!("the unit by systemd-analyze: {error}")),
            Ok(done) => ensure!(
                done.status.success() && !done.stderr.contains("slotd.service"),
                "{}",
                done.stderr
            ),
        }
        Ok(())
    });
}
