//! Signed components: with `deploy_keys` a service takes only what one of these keys has signed.

use crate::common::{expect_problem, good};
use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::Value;
use slotd_tests::{
    http::{Answer, Client},
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Components and keys in a folder.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn component(&self, name: &str, note: &str) -> anyhow::Result<String> {
        let component = plugins::variant(&plugins::load("counter")?, note);
        fs::write(self.path(name), component)?;
        Ok(self.text(name))
    }

    /// Commands that need no node.
    async fn slotd(&self, args: &[&str]) -> anyhow::Result<String> {
        let done = slotd_tests::node::run_slotd(args).await?;
        ensure!(done.status.success(), "{args:?}: {done:?}");
        Ok(done.stdout)
    }

    async fn fails(&self, args: &[&str]) -> anyhow::Result<String> {
        let done = slotd_tests::node::run_slotd(args).await?;
        ensure!(!done.status.success(), "{args:?}: {done:?}");
        Ok(done.stderr)
    }

    fn policy(&self, text: &str) -> anyhow::Result<String> {
        fs::write(self.path("policy.toml"), text)?;
        fs::set_permissions(self.path("policy.toml"), fs::Permissions::from_mode(0o600))?;
        Ok(self.text("policy.toml"))
    }

    async fn node(&self, policy: &str) -> anyhow::Result<Node> {
        let args = vec!["--access-file".into(), self.policy(policy)?];
        Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await
    }
}

/// A deploy as any client makes it.
async fn deploy(
    client: &Client,
    service: &str,
    file: &Path,
    signature: Option<&str>,
) -> anyhow::Result<Answer> {
    let path = format!("/admin/v1/services/{service}/deploy");
    let header = signature.map(|signature| ("slotd-signature", signature));
    client.request(Method::POST, &path, header.as_slice(), fs::read(file)?).await
}

fn signature_in(file: &Path) -> anyhow::Result<String> {
    let file: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    Ok(file["signature"].as_str().context("no signature")?.to_owned())
}

/// What the author of a component does, and what tells him of a mistake before a node does.
#[test]
fn keys_are_made_and_components_signed_and_verified() {
    scenario(async {
        let bench = Bench::new()?;
        let made = bench.slotd(&["plugin", "keygen", &bench.text("ci")]).await?;
        ensure!(made.contains("public = \"ed25519:"), "{made}");
        let mode = fs::metadata(bench.path("ci.pem"))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{mode:o}");
        let again = bench.fails(&["plugin", "keygen", &bench.text("ci")]).await?;
        ensure!(again.contains("is there already"), "{again}");
        bench.slotd(&["plugin", "keygen", &bench.text("other")]).await?;
        let file = bench.component("a.wasm", "1")?;
        let (key, public) = (bench.text("ci.pem"), bench.text("ci.pub.pem"));
        bench.slotd(&["plugin", "sign", &file, "--key", &key]).await?;
        bench.slotd(&["plugin", "verify", &file, "--key", &public]).await?;
        let other = ["plugin", "verify", &file, "--key", &bench.text("other.pub.pem")];
        ensure!(bench.fails(&other).await?.contains("another key"));
        let sign_with_public = ["plugin", "sign", &file, "--key", &public];
        ensure!(bench.fails(&sign_with_public).await?.contains("not a private key"));
        bench.component("a.wasm", "2")?;
        let changed = bench.fails(&["plugin", "verify", &file, "--key", &public]).await?;
        ensure!(changed.contains("another component"), "{changed}");
        Ok(())
    });
}

/// Who has stolen an admin token must not be able to run code.
#[test]
fn only_what_an_allowed_key_has_signed_is_deployed() {
    scenario(async {
        let bench = Bench::new()?;
        for key in ["ci", "other"] {
            bench.slotd(&["plugin", "keygen", &bench.text(key)]).await?;
        }
        let policy = "\
            [[key]]\nname = \"ci\"\nfile = \"ci.pub.pem\"\n\
            [[key]]\nname = \"other\"\nfile = \"other.pub.pem\"\n\
            [service.signed]\ndeploy_keys = [\"ci\"]\n\
            [service.others]\ndeploy_keys = [\"other\"]\n";
        let mut node = bench.node(policy).await?;
        let client = node.admin().client;
        let (first, second) = (bench.component("a.wasm", "1")?, bench.component("b.wasm", "2")?);
        let unsigned = node.run(&["deploy", "signed", &first]).await?;
        ensure!(unsigned.stderr.contains("signature-refused (403)"), "{unsigned:?}");
        ensure!(unsigned.stderr.contains("slotd plugin sign"), "{unsigned:?}");
        let key = bench.text("ci.pem");
        bench.slotd(&["plugin", "sign", &first, "--key", &key]).await?;
        let ours = signature_in(&bench.path("a.wasm.sig"))?;
        bench.slotd(&["plugin", "sign", &first, "--key", &bench.text("other.pem")]).await?;
        let theirs = signature_in(&bench.path("a.wasm.sig"))?;
        let (first_file, second_file) = (bench.path("a.wasm"), bench.path("b.wasm"));
        // Another key's; of another component; cut off; another service's key; nonsense.
        let cut = &ours[..ours.len() - 4];
        for (service, file, signature) in [
            ("signed", &first_file, &*theirs),
            ("signed", &second_file, &*ours),
            ("signed", &first_file, cut),
            ("others", &first_file, &*ours),
        ] {
            let refused = deploy(&client, service, file, Some(signature)).await?;
            expect_problem(&refused, 403, "signature-refused")?;
        }
        let nonsense = deploy(&client, "signed", &first_file, Some("%")).await?;
        expect_problem(&nonsense, 400, "request-invalid")?;
        let huge = deploy(&client, "signed", &first_file, Some(&"A".repeat(2_000))).await?;
        expect_problem(&huge, 400, "request-invalid")?;
        // It is refused before anybody looks at what it is.
        fs::write(bench.path("junk.wasm"), "junk")?;
        let junk = deploy(&client, "signed", &bench.path("junk.wasm"), Some(&ours)).await?;
        expect_problem(&junk, 403, "signature-refused")?;
        ensure!(client.get("/admin/v1/services/signed").await?.status == 404);

        // The right one, found beside the component; another service takes anything.
        bench.slotd(&["plugin", "sign", &first, "--key", &key]).await?;
        good(&node, &["deploy", "signed", &first, "--wait"]).await?;
        good(&node, &["deploy", "free", &second, "--wait"]).await?;
        bench.slotd(&["plugin", "sign", &second, "--key", &key]).await?;
        let sig = bench.text("elsewhere.sig");
        fs::rename(bench.path("b.wasm.sig"), &sig)?;
        good(&node, &["deploy", "signed", &second, "--signature", &sig, "--wait"]).await?;
        node.kill()?;
        node.restart().await?;
        let listed = good(&node, &["deployments", "signed"]).await?;
        ensure!(listed.matches("signed by ci").count() == 2, "{listed}");
        let log = good(&node, &["audit-log", "--json"]).await?;
        let log: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let refused = log.iter().filter(|change| change["code"] == "signature-refused").count();
        ensure!(refused == 6, "{refused} refused");
        let last = log.iter().rfind(|change| change["subject"]["service"] == "signed");
        let last = last.context("no line")?;
        ensure!(
            last["after"]["signed_by"] == "ci" && last["before"]["signed_by"] == "ci",
            "{last}"
        );
        Ok(())
    });
}

/// A key is taken out of the policy since nothing that it has signed should run: nor by a rollback.
#[test]
fn a_rollback_needs_a_key_that_is_allowed_today() {
    scenario(async {
        let bench = Bench::new()?;
        for key in ["old", "new"] {
            bench.slotd(&["plugin", "keygen", &bench.text(key)]).await?;
        }
        let keys = "\
            [[key]]\nname = \"old\"\nfile = \"old.pub.pem\"\n\
            [[key]]\nname = \"new\"\nfile = \"new.pub.pem\"\n";
        let with = |allowed: &str| format!("{keys}[service.\"*\"]\ndeploy_keys = [{allowed}]\n");
        let node = bench.node(&format!("{keys}[service.x]\n")).await?;
        let versions = [bench.component("0.wasm", "0")?, bench.component("1.wasm", "1")?];
        good(&node, &["deploy", "s", &versions[0], "--version", "0.0.1", "--wait"]).await?;
        let allow = async |allowed: &str| {
            // A node looks every few seconds.
            bench.policy(&with(allowed))?;
            node.signal(rustix::process::Signal::HUP)?;
            anyhow::Ok(())
        };
        allow("\"old\"").await?;
        let client = node.admin().client;
        eventually("the policy", async || {
            let answer = deploy(&client, "other", &bench.path("1.wasm"), None).await?;
            Ok((answer.status == 403).then_some(()))
        })
        .await?;
        bench.slotd(&["plugin", "sign", &versions[1], "--key", &bench.text("old.pem")]).await?;
        let deploy = ["deploy", "s", &versions[1], "--version", "0.0.2", "--wait"];
        good(&node, &deploy).await?;
        // What was deployed before was not signed.
        let refused = node.run(&["rollback", "s"]).await?;
        ensure!(refused.stderr.contains("signature-refused"), "{refused:?}");
        ensure!(refused.stderr.contains("without a signature"), "{refused:?}");
        // Signed after all, it is another deployment, and may be gone back to.
        bench.slotd(&["plugin", "sign", &versions[0], "--key", &bench.text("old.pem")]).await?;
        good(&node, &["deploy", "s", &versions[0], "--version", "0.0.1", "--wait"]).await?;
        good(&node, &["rollback", "s", "--to", "0.0.2", "--wait"]).await?;
        good(&node, &["rollback", "s", "--to", "0.0.1", "--wait"]).await?;
        allow("\"new\"").await?;
        eventually("another policy", async || {
            let refused = node.run(&["rollback", "s", "--to", "0.0.2"]).await?;
            Ok(refused.stderr.contains("its key old is not allowed any more").then_some(()))
        })
        .await?;
        // Each policy is in the audit log, by the digest of its text.
        let log = good(&node, &["audit-log", "--json"]).await?;
        let log: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let policies: Vec<_> = log.iter().filter(|c| c["action"] == "policy-reloaded").collect();
        ensure!(policies.len() == 2, "{policies:?}");
        ensure!(policies[0]["after"]["digest"] == policies[1]["before"]["digest"], "{policies:?}");
        // What runs goes on.
        ensure!(node.admin().service("s").await?.current.label.starts_with("0.0.1"));
        Ok(())
    });
}

/// Many sign with cosign already.
#[test]
fn what_cosign_has_signed_is_deployed() {
    scenario(async {
        let bench = Bench::new()?;
        let file = bench.component("a.wasm", "1")?;
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
        let made = made.map_err(|e| anyhow::anyhow!("{e}"))?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref(), &random);
        let pair = pair.map_err(|e| anyhow::anyhow!("{e}"))?;
        let point = slotd_access::PublicKey::P256(Box::new(pair.public_key().as_ref().try_into()?));
        fs::write(bench.path("cosign.pub"), point.to_pem())?;
        // As `cosign sign-blob --key cosign.key --output-signature a.sig a.wasm` writes it.
        let signature =
            pair.sign(&random, &fs::read(&file)?).map_err(|e| anyhow::anyhow!("{e}"))?;
        let base64 = STANDARD.encode(signature);
        fs::write(bench.path("a.sig"), &base64)?;
        let (sig, public) = (bench.text("a.sig"), bench.text("cosign.pub"));
        bench.slotd(&["plugin", "verify", &file, "--key", &public, "--sig", &sig]).await?;
        let policy = "\
            [[key]]\nname = \"cosign\"\nfile = \"cosign.pub\"\n\
            [service.s]\ndeploy_keys = [\"cosign\"]\n";
        let node = bench.node(policy).await?;
        good(&node, &["deploy", "s", &file, "--signature", &sig, "--wait"]).await?;
        let bundle = format!(
            r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{{"signature":"{base64}"}}}}"#
        );
        fs::write(bench.path("a.wasm.sig"), bundle)?;
        good(&node, &["deploy", "s", &file, "--version", "2.0.0", "--wait"]).await?;
        let listed = good(&node, &["deployments", "s"]).await?;
        ensure!(listed.contains("signed by cosign"), "{listed}");
        let other = bench.component("b.wasm", "2")?;
        let refused = node.run(&["deploy", "s", &other, "--signature", &sig]).await?;
        ensure!(refused.stderr.contains("signature-refused"), "{refused:?}");
        Ok(())
    });
}
