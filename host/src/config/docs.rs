//! `docs/configuration.md`, generated from the table of keys.

use super::{Config, keys::Key};
#[cfg(test)]
use super::{
    Kind,
    keys::{KEYS, OTHER_ENV, TABLES},
};
#[cfg(test)]
use std::fmt::Write as _;

#[cfg(test)]
const HEAD: &str = "\
# Configuration

<!-- Made from host/src/config/keys.rs. To renew: SLOTD_UPDATE_DOCS=1 cargo test -p slotd --lib docs -->

`slotd serve` reads its configuration from four places; a later one overrides an earlier one:

1. the defaults below,
2. a TOML file: `--config FILE`, else `$SLOTD_CONFIG`, else `slotd.toml` in the working directory
   if there is one,
3. environment variables, `SLOTD_` and the key: `SLOTD_API_LISTEN` for `api.listen`
   (an empty variable counts as not set),
4. flags: `--api-listen` for `api.listen`.

`slotd config print` shows every value and its source; `slotd config check` only checks, and reads the
secrets for that. Both take the same flags as `slotd serve`.

With an unknown key or `SLOTD_*` variable, or a value that is not allowed, slotd does not start (exit
code 2). It reports all problems at once, with the key, the value, its source and what is allowed:

    the configuration has 2 problems:
      slotd.toml:4: api.listn = \"0.0.0.0:7070\"
          unknown key; did you mean api.listen?
      $SLOTD_SLOT_COUNT: slot_count = \"0\"
          not allowed: it must be a whole number from 1 to 16384

Times have a unit: `500ms`, `10s`, `5m`, `1h`. Sizes are in bytes or have one: `256KiB`, `64MiB`,
`1GiB` (and `kB`, `MB`, `GB` for powers of ten).

## Tokens

`api.token` and `admin.token` are bearer tokens: clients send `Authorization: Bearer <token>`.
They are optional on loopback (127.0.0.0/8 and ::1). On any other address, slotd refuses to start
without one, unless `access.file` says who may use the listener or `insecure` is set; and it needs a
certificate, or `clear_text` if TLS ends in front of it ([TLS](tls.md)). Tokens, the cluster's secret and passwords in `nats.servers`
are never shown: not in `config print`, in logs or in configuration errors. `token_file` reads the
token from a file. Setting both in the same place (two flags, for example) is an error; otherwise the
later place wins.

A complete file, of a node whose API other machines reach. `slotd tls init /etc/slotd --api NAME` makes
the certificate and its key:

```toml
data_dir = \"/var/lib/slotd\"

[api]
listen = \"0.0.0.0:7070\"
token_file = \"/etc/slotd/api-token\"
tls_certificate = \"/etc/slotd/api.pem\"
tls_key = \"/etc/slotd/api.key\"

[log]
format = \"json\"
```
";

/// The whole file.
#[cfg(test)]
fn configuration_md() -> String {
    let mut out = String::from(HEAD);
    out.push_str("\n## Keys\n");
    section(&mut out, "The node", "Top-level keys, outside any table.", None);
    for (table, about) in TABLES {
        section(&mut out, &format!("`[{table}]`"), about, Some(table));
    }
    out.push_str(
        "\n## Other variables\n\nThese are not keys of the file. `slotd serve` and `slotd config` \
         read `SLOTD_CONFIG`; nodes of a cluster\nread the `DNS_*` variables; the others are for \
         other commands, and `slotd serve` ignores them.\n\n",
    );
    for (name, about) in OTHER_ENV {
        let _ = writeln!(out, "- `{name}`: {about}.");
    }
    out.push_str(
        "\nClient commands also read their tokens from `SLOTD_API_TOKEN` and `SLOTD_ADMIN_TOKEN`, \
         the same\nvariables as the server's. Variables that Kubernetes sets for a service named \
         `slotd`\n(`SLOTD_SERVICE_*`, `SLOTD_PORT*`) are ignored, and so are `SLOTD_TEST_*` and \
         `SLOTD_BENCH_*`.\n",
    );
    out
}

#[cfg(test)]
fn section(out: &mut String, title: &str, about: &str, table: Option<&str>) {
    let _ = writeln!(out, "\n### {title}\n\n{about}");
    let defaults = Config::default();
    for key in KEYS.iter().filter(|key| key.split().0 == table) {
        let _ = writeln!(out, "\n#### `{}`\n\n{}\n", key.name, key.doc);
        let _ = writeln!(out, "- Default: {}", default(key, &defaults));
        let _ = writeln!(out, "- Allowed: {}", key.kind.allowed());
        let flag = match key.kind {
            Kind::Flag => format!("`--{}`", key.flag()),
            _ => format!("`--{} …`", key.flag()),
        };
        let _ = writeln!(out, "- Also: `{}`, {flag}", key.env());
    }
}

/// The default as shown in the documentation.
fn default(key: &Key, defaults: &Config) -> String {
    match (key.default_doc, (key.get)(defaults)) {
        (Some(text), _) => text.into(),
        (None, Some(value)) => format!("`{value}`"),
        (None, None) => "not set".into(),
    }
}

/// The text of one key for `slotd serve --help`.
pub fn flag_help(key: &Key) -> String {
    let default = default(key, &Config::default()).replace('`', "");
    format!("{} [default: {default}]", key.doc.replace('`', ""))
}

#[cfg(test)]
mod tests {
    /// A key that is missing in the documentation, or has another default there, misleads.
    #[test]
    fn configuration_docs_are_current() {
        crate::testing::assert_current("configuration.md", &super::configuration_md());
    }
}
