//! `compose.yaml`.

use super::*;

/// `${NAME:?why}` by a value.
fn filled_in(value: &str, of: &str) -> String {
    match value.strip_prefix("${").and_then(|rest| rest.split_once(":?")) {
        Some((name, _)) if name == of => format!("{SECRET}-{name}"),
        _ => value.to_owned(),
    }
}

/// Without it, the compose file could start nodes that refuse their configuration, do not find each
/// other, or are killed before they have given their slots away.
#[test]
fn compose_runs_nodes_that_find_each_other() {
    scenario(async {
        let [file] = &yaml("compose.yaml")?[..] else { anyhow::bail!("one document") };
        let services = at(file, "/services")?.as_object().context("services")?;
        let dockerfile = container::Dockerfile::read()?;
        let mut nodes = BTreeMap::new();
        let mut servers = Vec::new();
        for (name, service) in services {
            if name.starts_with("nats-") {
                let own = text(service, "/environment/SERVER_NAME")?;
                ensure!(own == name, "{own} in {name}");
                servers.push(name.clone());
                continue;
            }
            let environment = at(service, "/environment")?.as_object().context("environment")?;
            let env = environment.iter().map(|(key, value)| {
                let value = value.as_str().with_context(|| format!("{key} is no text"))?;
                Ok((key.clone(), filled_in(value, key)))
            });
            let env: BTreeMap<String, String> = env.collect::<anyhow::Result<_>>()?;
            let image = dockerfile.env.clone().into_iter();
            let config = config(&image.chain(env).collect(), &[]).await?;
            ensure!(config["node"] == **name, "{name} is called {}", config["node"]);

            let advertised = &config["cluster.advertise"];
            let address = text(service, "/networks/peers/ipv4_address")?;
            let expected = format!("{address}:{}", port(&config["cluster.listen"])?);
            ensure!(*advertised == expected, "{name}: {advertised} is not {expected}");
            let published = strings(service, "/ports")?;
            for key in ["api.listen", "admin.listen"] {
                let inside = port(&config[key])?;
                let found = published.iter().any(|p| port(p).is_ok_and(|p| p == inside));
                ensure!(found, "{name}: {key} {inside} is not published: {published:?}");
            }
            let grace = seconds(&config["shutdown_grace"])?;
            let stop = seconds(text(service, "/stop_grace_period")?)?;
            ensure!(stop > grace + OVERTIME, "{name} is killed after {stop} s");
            let volume = format!("{name}:{}", config["data_dir"]);
            ensure!(strings(service, "/volumes")? == [volume.clone()], "{name} without {volume}");
            ensure!(at(file, "/volumes")?.get(name).is_some(), "no volume {name}");
            let health = strings(service, "/healthcheck/test")?;
            let [kind, program, command] = &health[..] else { anyhow::bail!("{health:?}") };
            ensure!(kind == "CMD" && *program == dockerfile.program()?, "{health:?}");
            let known = run_slotd(&[command.as_str(), "--help"]).await?;
            ensure!(known.status.success(), "no command {command}");
            ensure!(at(service, "/read_only")? == true, "{name} writes to its image");
            let build = folder().join(text(service, "/build/context")?);
            let docker = build.join(text(service, "/build/dockerfile")?);
            ensure!(docker.is_file(), "{} is not there", docker.display());
            nodes.insert(name.clone(), config);
        }
        ensure!(nodes.len() == 3 && servers.len() == 3, "{nodes:?} {servers:?}");
        for (name, config) in &nodes {
            let peer = port(&config["cluster.listen"])?;
            let all: Vec<String> = nodes.keys().map(|name| format!("{name}:{peer}")).collect();
            ensure!(config["cluster.seeds"] == all.join(","), "{name} does not look for all");
            let all: Vec<String> = servers.iter().map(|s| format!("nats://{s}:4222")).collect();
            ensure!(config["nats.servers"] == all.join(","), "{name} does not know all servers");
            let all: Vec<String> = servers.iter().map(|s| format!("http://{s}:8222")).collect();
            ensure!(config["nats.monitor"] == all.join(","), "{name} can't see that all sync");
            let needs = at(&services[name], "/depends_on")?.as_object().context("depends_on")?;
            ensure!(needs.keys().eq(&servers), "{name} waits for {needs:?}");
        }
        for server in &servers {
            let service = &services[server];
            let volumes = strings(service, "/volumes")?;
            ensure!(volumes == [format!("{server}:/data")], "{server}: {volumes:?}");
            let health = strings(service, "/healthcheck/test")?;
            ensure!(health.last().is_some_and(|url| url.ends_with(":8222/healthz")), "{health:?}");
            let target = text(service, "/configs/0/target")?;
            ensure!(strings(service, "/command")? == ["--config", target], "{server}");
        }
        let conf = text(file, "/configs/nats/content")?.replace("$$", "$");
        for server in &servers {
            ensure!(conf.contains(&format!("\"nats://{server}:6222\"")), "no route to {server}");
        }
        check_nats(&conf, &BTreeMap::from([("SERVER_NAME".into(), "nats-1".into())])).await
    });
}
