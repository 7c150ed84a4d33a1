//! `docs/cli.md`, generated from the definition of the command line.

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, exit::Exit};
    use clap::{Command, CommandFactory};
    use std::fmt::Write as _;

    const HEAD: &str = "\
# The command line

<!-- Made from host/src/cli/args.rs. To renew: SLOTD_UPDATE_DOCS=1 cargo test -p slotd --lib docs -->

`slotd` is both the node (`slotd serve`) and a client for one. Commands on sessions use the API
(`--url`, by default http://127.0.0.1:7070), commands on services and slots the admin API
(`--admin-url`, by default http://127.0.0.1:7071). Pass tokens in `SLOTD_API_TOKEN` and
`SLOTD_ADMIN_TOKEN`.

Results go to standard output, messages about them to standard error, so `slotd send chat room-17
… > reply.json` writes only the reply. `--json` prints the server's own JSON on one line, with session
data byte for byte as stored (for `tail`: one line per event, with its `position`, for `--after`), and
errors as one object on standard error:
`{\"error\": TEXT, \"exit\": CODE, \"problem\": the server's problem+json or null}`.

On a terminal, control characters in session data are printed as escapes.

## Exit codes

| code | meaning |
|---|---|
";

    fn markdown() -> String {
        let mut out = String::from(HEAD);
        for (code, meaning) in Exit::ALL {
            let _ = writeln!(out, "| {code} | {meaning} |");
        }
        out.push_str(
            "\nA service manager should not restart a node that exited with 2 or 7: it would fail again.\n\n\
             ## Commands\n",
        );
        let mut root = Cli::command().term_width(96);
        root.build();
        commands(&mut out, &mut root, "slotd");
        out
    }

    fn commands(out: &mut String, command: &mut Command, name: &str) {
        for child in command.get_subcommands_mut() {
            let name = format!("{name} {}", child.get_name());
            if child.has_subcommands() {
                commands(out, child, &name);
                continue;
            }
            let _ = writeln!(out, "\n### {name}\n\n```text");
            // The short help of `serve`: docs/configuration.md has the rest.
            for line in child.render_help().to_string().lines() {
                let _ = writeln!(out, "{}", line.trim_end());
            }
            out.push_str("```\n");
        }
    }

    /// A command that is missing in the documentation is not found; one that no longer exists
    /// misleads.
    #[test]
    fn cli_docs_are_current() {
        crate::testing::assert_current("cli.md", &markdown());
    }
}
