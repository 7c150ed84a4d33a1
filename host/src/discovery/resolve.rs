//! One DNS lookup: a name's current addresses.

use crate::limits;
use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RecordType},
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// The result of one query (one name, one record type).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The servers' answer; empty for a name that does not exist or has no such records.
    Answer(Vec<IpAddr>),
    /// No trustworthy answer, and why.
    Failed(String),
}

/// Sends queries. Created anew for each lookup, which covers a changed `resolv.conf`, a server that
/// came back and a hanging connection. Nothing is cached; the operator sets the interval.
pub(super) struct Resolver {
    resolver: TokioResolver,
    search: Vec<Name>,
    ndots: usize,
}

impl Resolver {
    /// # Errors
    /// If the system's configuration can't be read or names no server.
    pub fn new(server: Option<SocketAddr>, timeout: Duration) -> Result<Self, NetError> {
        let (builder, search): (ResolverBuilder<TokioRuntimeProvider>, _) = match server {
            Some(server) => {
                (TokioResolver::builder_with_config(one(server), Default::default()), vec![])
            }
            None => {
                let (config, options) = hickory_resolver::system_conf::read_system_conf()?;
                let search = match config.search() {
                    [] => config.domain().cloned().into_iter().collect(),
                    search => search.to_vec(),
                };
                let builder = TokioResolver::builder_with_config(config, Default::default());
                (builder.with_options(options), search)
            }
        };
        let mut builder = builder;
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        options.timeout = timeout;
        options.attempts = 1;
        options.use_hosts_file =
            if server.is_some() { ResolveHosts::Never } else { ResolveHosts::Always };
        let ndots = options.ndots;
        Ok(Self { resolver: builder.build()?, search, ndots })
    }

    /// The addresses of `name`: A and AAAA, each an answer or a failure of its own, so that a
    /// server that fails for one type does not hide the other.
    pub async fn look(&self, name: &str) -> [Outcome; 2] {
        let names = match candidates(name, &self.search, self.ndots) {
            Ok(names) => names,
            Err(error) => return [Outcome::Failed(error.clone()), Outcome::Failed(error)],
        };
        // The first candidate that has addresses is used. A candidate that failed may have been it,
        // so its failure takes precedence over another one's "no such name".
        let mut found = [Outcome::Answer(Vec::new()), Outcome::Answer(Vec::new())];
        for name in names {
            let ask = |kind| self.ask(&name, kind);
            let (v4, v6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
            let some = |o: &Outcome| matches!(o, Outcome::Answer(list) if !list.is_empty());
            if some(&v4) || some(&v6) {
                return [v4, v6];
            }
            for (kept, new) in found.iter_mut().zip([v4, v6]) {
                if matches!(kept, Outcome::Answer(_)) {
                    *kept = new;
                }
            }
        }
        found
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Outcome {
        let lookup = self.resolver.lookup(name.clone(), kind);
        match tokio::time::timeout(limits::DNS_QUESTION_DEADLINE, lookup).await {
            Ok(Ok(lookup)) => {
                let wanted = lookup.answers().iter().filter(|record| record.record_type() == kind);
                Outcome::Answer(wanted.filter_map(|record| record.data.ip_addr()).collect())
            }
            Ok(Err(error)) if error.is_no_records_found() => Outcome::Answer(Vec::new()),
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed("request timed out".into()),
        }
    }
}

fn one(server: SocketAddr) -> ResolverConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    ResolverConfig::from_name_servers(vec![NameServerConfig::new(server.ip(), true, connections)])
}

/// The names to try, in turn: resolv.conf(5)'s rules for `search` and `ndots`. hickory does this
/// too, but returns only the last one's error: a name that timed out would look like one that is
/// gone.
fn candidates(name: &str, search: &[Name], ndots: usize) -> Result<Vec<Name>, String> {
    let mut bare = Name::from_str_relaxed(name).map_err(|e| e.to_string())?;
    let absolute = bare.is_fqdn();
    let dots = usize::from(bare.num_labels()).saturating_sub(1);
    let searched = search.iter().filter_map(|suffix| bare.clone().append_domain(suffix).ok());
    let mut names: Vec<Name> = if absolute { Vec::new() } else { searched.collect() };
    bare.set_fqdn(true);
    let at = if absolute || dots >= ndots { 0 } else { names.len() };
    names.insert(at, bare);
    names.iter_mut().for_each(|name| name.set_fqdn(true));
    names.dedup();
    names.truncate(limits::DNS_CANDIDATES_MAX);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a Kubernetes pod (`ndots:5`, three search domains) a short name must be found, and the
    /// right one first.
    #[test]
    fn search_lists_are_used_as_resolv_conf_says() {
        let search =
            ["ns.svc.cluster.local", "cluster.local"].map(|n| Name::from_ascii(n).unwrap());
        let names = |name, ndots| {
            let names = candidates(name, &search, ndots).unwrap();
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            names("slotd", 5),
            ["slotd.ns.svc.cluster.local.", "slotd.cluster.local.", "slotd."]
        );
        assert_eq!(names("a.b", 1), ["a.b.", "a.b.ns.svc.cluster.local.", "a.b.cluster.local."]);
        assert_eq!(names("a.b.", 5), ["a.b."]);
    }
}
