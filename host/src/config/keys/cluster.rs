//! Keys of a cluster: its log engine, and how its nodes find and trust each other.

use super::{
    super::value::{Kind, Value},
    HOUR, Key, SECOND, ms,
};
use crate::limits;

pub(super) static KEYS: &[Key] = &[
    optional!(
        "nats.servers",
        Kind::NatsServers,
        Text,
        nats.servers,
        "The NATS servers; name several, so that one may be down. This makes the node part of a \
         cluster, whose log is on these servers instead of on this disk."
    ),
    optional!(
        "nats.credentials",
        Kind::Path,
        Text,
        nats.credentials,
        "A NATS credentials file. A user and password, or a token, can also be part of the \
         addresses."
    ),
    optional!(
        "nats.tls_authority",
        Kind::Path,
        Text,
        nats.tls_authority,
        "A PEM file with the authorities that the servers' certificates must have, instead of the \
         system's. With it, servers are spoken to over TLS only, whatever their addresses say."
    ),
    optional!(
        "nats.tls_certificate",
        Kind::Path,
        Text,
        nats.tls_certificate,
        "A PEM file with a certificate to show to the servers, if they ask for one (`verify`)."
    ),
    optional!(
        "nats.tls_key",
        Kind::Path,
        Text,
        nats.tls_key,
        "A PEM file with that certificate's private key. Only slotd should be able to read it."
    ),
    optional!(
        "nats.monitor",
        Kind::Monitors,
        Text,
        nats.monitor,
        "The servers' monitoring ports, `http://` or `https://`. With them, slotd checks at its start that every server \
         syncs before it acknowledges (`sync_interval: always`); it can't check this otherwise."
    ),
    key!(
        "nats.replicas",
        // Even numbers are useless here.
        Kind::OneOf(&[1, 3, 5]),
        Count,
        nats.replicas,
        |v: usize| v as u64,
        |v: u64| v as usize,
        "The number of servers that store each batch: 3 or 5; 1 for development. The same on \
         every node."
    ),
    Key {
        name: "nats.streams",
        kind: Kind::Count { min: 1, max: limits::NATS_STREAMS_MAX as u64 },
        doc: "The number of streams that the slots' logs are spread over. Fixed at the cluster's \
            first start.",
        get: |config| config.nats.streams.map(|v| Value::Count(v.into())),
        set: |config, value| {
            if let Value::Count(v) = value {
                config.nats.streams = Some(v as u16);
            }
        },
        default_doc: Some("the cluster's number; 3 for a new cluster"),
    },
    same!(
        "nats.boot_wait",
        ms(0, HOUR),
        Duration,
        nats.boot_wait,
        "How long the node waits for the servers at its start before it exits with code 6."
    ),
    same!(
        "cluster.name",
        Kind::ClusterName,
        Text,
        cluster.name,
        "The cluster's name, part of every stream's name, so several clusters may share the \
         servers. Nodes with another cluster name are refused."
    ),
    optional!(
        "cluster.secret",
        Kind::Secret,
        Secret,
        cluster.secret,
        "The secret that all nodes of the cluster share, from which the keys of all that they send \
         each other are derived: at least 128 random bits; `slotd cluster secret` makes one. Prefer the file or the environment."
    ),
    optional!(
        "cluster.secret_file",
        Kind::Path,
        Text,
        cluster.secret_file,
        "A file that contains the cluster's secret; a line break at its end is ignored."
    ),
    same!(
        "cluster.accept_weak_secret",
        Kind::Flag,
        Flag,
        cluster.accept_weak_secret,
        "Allow a secret that looks weaker than 128 bits. For clusters that are older than this \
         check, until all their nodes can be stopped to change it: anyone who captures one \
         message between nodes can try to guess the secret."
    ),
    optional!(
        "cluster.tls_authority",
        Kind::Path,
        Text,
        cluster.tls_authority,
        "A PEM file with the cluster's own certificate authority, made by `slotd tls init` or \
         another tool; two while it is replaced. Links between nodes are encrypted without it, \
         too: then their certificates follow from the secret."
    ),
    optional!(
        "cluster.tls_certificate",
        Kind::Path,
        Text,
        cluster.tls_certificate,
        "A PEM file with this node's certificate of that authority. It must be valid for the DNS \
         name `slotd-peer`; if it has URIs `slotd:node:NAME`, only for nodes of these names."
    ),
    optional!(
        "cluster.tls_key",
        Kind::Path,
        Text,
        cluster.tls_key,
        "A PEM file with that certificate's private key. Only slotd should be able to read it."
    ),
    same!(
        "cluster.listen",
        Kind::Address,
        Address,
        cluster.listen,
        "The address for peers, TCP (requests) and UDP (membership) on one port."
    ),
    optional!(
        "cluster.advertise",
        Kind::Address,
        Address,
        cluster.advertise,
        "The address that peers use to reach this node, if it differs from `cluster.listen`. \
         Required if that is 0.0.0.0 or [::]."
    ),
    optional!(
        "cluster.seeds",
        Kind::Seeds,
        Text,
        cluster.seeds,
        "Addresses of some peers, resolved periodically. DNS is the other way to find peers \
         (`DNS_CLUSTER_QUERY`)."
    ),
    same!(
        "cluster.join_wait",
        ms(0, 10 * 60 * SECOND),
        Duration,
        cluster.join_wait,
        "How long a node that finds no peer waits before it takes slots."
    ),
];
