//! The tables of the file, and variables of the environment that are no keys.

/// Environment variables that are not configuration keys.
pub const OTHER_ENV: &[(&str, &str)] = &[
    ("SLOTD_CONFIG", "the configuration file, if `--config` is not given"),
    ("SLOTD_URL", "the API's URL for client commands (`--url`)"),
    ("SLOTD_ADMIN_URL", "the admin API's URL for client commands (`--admin-url`)"),
    (
        "SLOTD_CA",
        "the authorities of `https://` URLs for client commands (`--ca`), instead of the system's",
    ),
    ("SLOTD_CERT", "the client certificate for the admin API (`--cert`)"),
    ("SLOTD_KEY", "its private key (`--key`)"),
    ("DNS_CLUSTER_QUERY", "DNS names to poll for the addresses of peers; blank: none"),
    (
        "DNS_CLUSTER_NODE_BASENAME",
        "the part before `@` and the address in node names; default `slotd`",
    ),
    ("DNS_POLL_INTERVAL_MS", "how often to poll them; default 5000"),
    (
        "DNS_CLUSTER_SERVER",
        "the name server (`ip` or `ip:port`) to ask, instead of the machine's own",
    ),
    (
        "SLOTD_NATS_SERVER",
        "the `nats-server` that `slotd cluster` starts, instead of the one on the `PATH`",
    ),
    (
        "SLOTD_PYTHON",
        "the Python that `slotd plugin build` and `test` use, instead of the one on the `PATH`",
    ),
    (
        "SLOTD_TOOLS_DIR",
        "where `slotd plugin build` and `test` keep fetched tools for all plugins, instead of \
         each plugin's `.slotd/tools`; `slotd cluster` also looks there for a `nats-server`",
    ),
    (
        "SLOTD_NODEJS",
        "the Node.js for JavaScript and TypeScript plugins, instead of `node` on the `PATH`",
    ),
    ("SLOTD_NPM", "the npm for them, instead of `npm` on the `PATH`"),
    ("SLOTD_TIMEOUT", "how long client commands wait for an answer (`--timeout`)"),
];

/// Tables of the file in display order, with their purpose.
pub const TABLES: &[(&str, &str)] = &[
    ("api", "The listener for clients."),
    ("admin", "The listener for operators: deploys, slots, metrics, health."),
    ("access", "Who may do what on both listeners (docs/access.md)."),
    ("effects", "What handlers may do outside of their session."),
    ("slots", "Limits of a slot."),
    ("guests", "Limits of plugins."),
    ("store", "The embedded log and state."),
    ("nats", "The log engine of a cluster. Without `nats.servers`, slotd runs as a single node."),
    ("cluster", "How the nodes of a cluster find and trust each other."),
    ("seal", "Encrypting what is kept."),
    ("snapshots", "Where a cluster keeps the state behind the part of the log that was trimmed."),
    ("log", "What slotd writes to its standard error."),
];
