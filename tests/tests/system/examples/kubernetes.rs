//! `kubernetes/`.

use super::*;

/// A pod's container with what it is given.
struct Pod<'a> {
    set: &'a Value,
    spec: &'a Value,
    container: &'a Value,
    /// What stands for fields of the pod and for secrets is filled in.
    env: BTreeMap<String, String>,
}

/// The document of that kind and name.
fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> anyhow::Result<&'a Value> {
    let mut found = documents.iter().filter(|d| d["kind"] == kind && d["metadata"]["name"] == name);
    found.next().with_context(|| format!("no {kind} {name}"))
}

impl<'a> Pod<'a> {
    fn read(documents: &'a [Value], secret: &Value, name: &str) -> anyhow::Result<Self> {
        let set = find(documents, "StatefulSet", name)?;
        let spec = at(set, "/spec/template/spec")?;
        let container = at(spec, "/containers/0")?;
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        for variable in list(container, "/env")? {
            let name = text(variable, "/name")?;
            let value = match variable.get("value") {
                Some(value) => {
                    // Only variables that stand before it are replaced.
                    let mut value = value.as_str().context("a value that is no text")?.to_owned();
                    for (known, content) in &env {
                        value = value.replace(&format!("$({known})"), content);
                    }
                    ensure!(!value.contains("$("), "{name} refers to what is not before it");
                    value
                }
                None => match variable.pointer("/valueFrom/fieldRef/fieldPath") {
                    Some(field) if field == "metadata.name" => {
                        format!("{}-0", text(set, "/metadata/name")?)
                    }
                    Some(field) if field == "status.podIP" => "10.1.2.3".into(),
                    Some(field) => anyhow::bail!("{name}: {field}"),
                    None => {
                        let key = text(variable, "/valueFrom/secretKeyRef/key")?;
                        let of = text(variable, "/valueFrom/secretKeyRef/name")?;
                        ensure!(secret["metadata"]["name"] == of, "{name}: no secret {of}");
                        text(secret, &format!("/stringData/{key}"))?.to_owned()
                    }
                },
            };
            env.insert(name.to_owned(), value);
        }
        Ok(Self { set, spec, container, env })
    }

    /// The container's port of that name.
    fn port(&self, name: &str) -> anyhow::Result<(u16, &str)> {
        let ports = list(self.container, "/ports")?;
        let found = ports.iter().find(|port| port["name"] == name);
        let found = found.with_context(|| format!("no port {name}"))?;
        let number = at(found, "/containerPort")?.as_u64().context("no number")?;
        Ok((u16::try_from(number)?, found["protocol"].as_str().unwrap_or("TCP")))
    }

    fn probe(&self, name: &str) -> anyhow::Result<(&str, &str)> {
        let get = at(self.container, &format!("/{name}/httpGet"))?;
        Ok((text(get, "/path")?, text(get, "/port")?))
    }

    /// What every pod here must be: hardened, bounded, kept from going all at once.
    fn check(&self, documents: &[Value]) -> anyhow::Result<()> {
        let name = text(self.set, "/metadata/name")?;
        let labels = at(self.set, "/spec/template/metadata/labels")?;
        ensure!(at(self.set, "/spec/selector/matchLabels")? == labels, "{name} selects others");
        ensure!(at(self.set, "/spec/replicas")? == 3, "{name}");
        let budget = find(documents, "PodDisruptionBudget", name)?;
        ensure!(at(budget, "/spec/maxUnavailable")? == 1, "{name} may go all at once");
        ensure!(at(budget, "/spec/selector/matchLabels")? == labels, "{name}: of other pods");
        for (pointer, value) in [
            ("/securityContext/allowPrivilegeEscalation", Value::from(false)),
            ("/securityContext/readOnlyRootFilesystem", true.into()),
            ("/securityContext/capabilities/drop/0", "ALL".into()),
        ] {
            ensure!(*at(self.container, pointer)? == value, "{name}: {pointer}");
        }
        ensure!(at(self.spec, "/securityContext/runAsNonRoot")? == true, "{name} may be root");
        ensure!(at(self.spec, "/enableServiceLinks")? == false, "{name} gets others' variables");
        for pointer in
            ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"]
        {
            ensure!(
                text(self.container, pointer)?.len() > 1 || pointer.ends_with("cpu"),
                "{pointer}"
            );
        }
        // Every mount has its volume, and every service its pods and ports.
        let volumes = list(self.spec, "/volumes")?.iter().map(|v| &v["name"]);
        let claims = list(self.set, "/spec/volumeClaimTemplates")?.iter();
        let volumes: Vec<&Value> = volumes.chain(claims.map(|c| &c["metadata"]["name"])).collect();
        for mount in list(self.container, "/volumeMounts")? {
            ensure!(volumes.contains(&&mount["name"]), "{name}: no volume {mount}");
        }
        let services = documents.iter().filter(|d| d["kind"] == "Service");
        for service in services.filter(|s| s["spec"]["selector"] == *labels) {
            for port in list(service, "/spec/ports")? {
                let (number, protocol) = self.port(text(port, "/targetPort")?)?;
                ensure!(port["port"] == number, "{port} leads to {number}");
                ensure!(port["protocol"].as_str().unwrap_or("TCP") == protocol, "{port}");
            }
        }
        let headless = find(documents, "Service", text(self.set, "/spec/serviceName")?)?;
        ensure!(at(headless, "/spec/selector")? == labels, "{name}: the names of other pods");
        ensure!(at(headless, "/spec/clusterIP")? == "None", "{name} is not told apart");
        let early = at(headless, "/spec/publishNotReadyAddresses")?;
        ensure!(early == true, "{name}: pods find each other only once they are ready");
        Ok(())
    }
}

fn documents() -> anyhow::Result<(Vec<Value>, Value)> {
    let mut all = yaml("kubernetes/slotd.yaml")?;
    all.extend(yaml("kubernetes/nats.yaml")?);
    let [secret] = &yaml("kubernetes/secret.yaml")?[..] else { anyhow::bail!("one secret") };
    ensure!(all.iter().all(|d| d["apiVersion"].is_string() && d["kind"].is_string()));
    Ok((all, secret.clone()))
}

/// Without it, the pods could refuse their configuration, be probed where nothing answers, not find
/// each other, or be killed before they have given their slots away.
#[test]
fn pods_of_slotd_are_what_slotd_needs() {
    scenario(async {
        let (documents, secret) = documents()?;
        let pod = Pod::read(&documents, &secret, "slotd")?;
        pod.check(&documents)?;
        ensure!(strings(pod.container, "/args")? == ["serve"]);
        let mount = |name: &str| {
            let mounts = list(pod.container, "/volumeMounts")?;
            let mount = mounts.iter().find(|mount| mount["name"] == name);
            text(mount.with_context(|| format!("no mount {name}"))?, "/mountPath")
        };
        // Each file that is read is a key of the secret, mounted there.
        let secrets = mount("secrets")?;
        let volume = list(pod.spec, "/volumes")?.iter().find(|v| v["name"] == "secrets");
        let volume = volume.context("no volume secrets")?;
        ensure!(volume["secret"]["secretName"] == secret["metadata"]["name"]);
        let mut files = 0;
        for (name, file) in pod.env.iter().filter(|(name, _)| name.ends_with("_FILE")) {
            let item = file.strip_prefix(&format!("{secrets}/")).with_context(|| name.clone())?;
            let items = list(volume, "/secret/items")?;
            let found =
                items.iter().find(|i| i["path"] == item).with_context(|| item.to_owned())?;
            text(&secret, &format!("/stringData/{}", text(found, "/key")?))?;
            files += 1;
        }
        ensure!(files == 3, "{files} secrets are read");

        let scratch = tempfile::tempdir()?;
        let config = config(&with_secret_files(pod.env.clone(), scratch.path())?, &[]).await?;
        ensure!(config["data_dir"] == mount("data")?, "the data is not on the volume");
        for (name, key, protocol) in [
            ("api", "api.listen", "TCP"),
            ("admin", "admin.listen", "TCP"),
            ("peers", "cluster.listen", "TCP"),
            ("membership", "cluster.listen", "UDP"),
        ] {
            let found = pod.port(name)?;
            ensure!(found == (port(&config[key])?, protocol), "{name}: {found:?}");
            ensure!(config[key].starts_with("0.0.0.0:"), "{key} is not reached from outside");
        }
        let advertised = format!("10.1.2.3:{}", port(&config["cluster.listen"])?);
        ensure!(config["cluster.advertise"] == advertised, "{}", config["cluster.advertise"]);
        let query = &pod.env["DNS_CLUSTER_QUERY"];
        ensure!(pod.set["spec"]["serviceName"] == **query, "{query} is not the pods' own name");

        let openapi = run_slotd(&["openapi"]).await?;
        let openapi: Value = serde_json::from_str(&openapi.stdout)?;
        for (probe, path) in [
            ("startupProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
            ("livenessProbe", "/healthz"),
        ] {
            ensure!(openapi["paths"].get(path).is_some(), "no route {path}");
            ensure!(pod.probe(probe)? == (path, "admin"), "{probe}: {:?}", pod.probe(probe)?);
        }
        let number = |pointer: &str| {
            at(pod.container, pointer)?.as_f64().with_context(|| pointer.to_owned())
        };
        let startup =
            number("/startupProbe/periodSeconds")? * number("/startupProbe/failureThreshold")?;
        let boot = seconds(&config["nats.boot_wait"])?;
        ensure!(startup > boot, "it is killed after {startup} s while it waits {boot} s for NATS");
        let pause = number("/lifecycle/preStop/sleep/seconds")?;
        let stop = at(pod.spec, "/terminationGracePeriodSeconds")?.as_f64().context("no number")?;
        let grace = seconds(&config["shutdown_grace"])?;
        ensure!(stop > pause + grace + OVERTIME, "it is killed after {stop} s");

        let dockerfile = container::Dockerfile::read()?;
        let user = at(pod.spec, "/securityContext/runAsUser")?;
        let group = at(pod.spec, "/securityContext/runAsGroup")?;
        ensure!(dockerfile.user()? == format!("{user}:{group}"), "another user than the image's");
        ensure!(at(pod.spec, "/securityContext/fsGroup")? == group, "the volume is not its own");
        // A service `slotd` would give every pod SLOTD_PORT and the like.
        ensure!(find(&documents, "Service", "slotd").is_err());

        // The servers that it names are those of the other file.
        let nats = Pod::read(&documents, &secret, "nats")?;
        let (client, _) = nats.port("client")?;
        let password = text(&secret, "/stringData/nats-password")?;
        let expected: Vec<String> =
            (0..3).map(|n| format!("nats://slotd:{password}@nats-{n}.nats:{client}")).collect();
        let given = pod.env.get("SLOTD_NATS_SERVERS").context("no servers")?;
        ensure!(*given == expected.join(","), "{given}");
        ensure!(!config["nats.servers"].contains(password), "{}", config["nats.servers"]);
        let (monitor, _) = nats.port("monitor")?;
        let expected: Vec<String> =
            (0..3).map(|n| format!("http://nats-{n}.nats:{monitor}")).collect();
        ensure!(config["nats.monitor"] == expected.join(","), "{}", config["nats.monitor"]);
        Ok(())
    });
}

/// Without it, the servers could lose what they have acknowledged, refuse slotd's batches, not find
/// each other, or not start at all.
#[test]
fn pods_of_nats_are_what_slotd_needs() {
    scenario(async {
        let (documents, secret) = documents()?;
        let pod = Pod::read(&documents, &secret, "nats")?;
        pod.check(&documents)?;
        let conf = text(find(&documents, "ConfigMap", "nats")?, "/data/nats.conf")?;
        check_nats(conf, &pod.env).await?;
        let mounts = list(pod.container, "/volumeMounts")?;
        let mounted = |path: &str| mounts.iter().any(|mount| mount["mountPath"] == path);
        ensure!(mounted("/data") && mounted("/etc/nats") && mounted("/var/run/nats"), "{mounts:?}");
        ensure!(strings(pod.container, "/args")? == ["--config", "/etc/nats/nats.conf"]);
        let service = text(pod.set, "/spec/serviceName")?;
        let (routes, _) = pod.port("routes")?;
        let password = text(&secret, "/stringData/nats-password")?;
        for n in 0..3 {
            let route = &pod.env[&format!("ROUTE_{n}")];
            let expected = format!("\"nats://route:{password}@nats-{n}.{service}:{routes}\"");
            ensure!(*route == expected && conf.contains(&format!("$ROUTE_{n}")), "{route}");
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let (path, port) = pod.probe(probe)?;
            ensure!(path.starts_with("/healthz") && port == "monitor", "{probe}: {path} {port}");
        }
        let stop = at(pod.spec, "/terminationGracePeriodSeconds")?.as_f64().context("no number")?;
        let lame = |key: &str| {
            let line =
                conf.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
            seconds(line.with_context(|| format!("no {key}"))?.trim_matches('"'))
        };
        let duck = lame("lame_duck_duration")? + lame("lame_duck_grace_period")?;
        ensure!(stop > duck, "it is killed after {stop} s");
        Ok(())
    });
}
