//! What must hold between settings, or of one beyond its type. Each rule says which setting breaks it and how to mend that.

use std::collections::BTreeMap;

use super::{
    Config,
    setting::{DEFAULT, Problem, Source},
};
use crate::frame::limits;

/// Most threads that serve connections: more than any machine has cores.
const THREADS_MAX: usize = 1024;
/// Most shard workers: a thread each, and no shard has two.
const WORKERS_MAX: usize = limits::SHARDS as usize;

/// Checks every rule.
pub fn check(config: &Config, sources: &BTreeMap<String, Source>, problems: &mut Vec<Problem>) {
    let mut broken = |key: &str, message: String, fix: &str| {
        let source = sources.get(key).unwrap_or(&DEFAULT);
        problems.push(Problem::new(format!("{source}: {key}"), message, fix));
    };
    for (key, listen) in [
        ("http.listen", &config.http.listen),
        ("grpc.listen", &config.grpc.listen),
        ("grpc.tls_listen", &config.grpc.tls_listen),
        ("quic.listen", &config.quic.listen),
        ("mqtt.listen", &config.mqtt.listen),
        ("mqtt.tls_listen", &config.mqtt.tls_listen),
    ] {
        if !listen.is_local() && !config.node.insecure {
            broken(
                key,
                format!(
                    "is {listen}, which other machines can reach, and this build has no authentication yet: \
                     anybody there could send and receive in any agent's name"
                ),
                "listen on 127.0.0.1 and let a proxy on this machine authenticate callers and end TLS, \
                 or spell out --insecure on a network that you trust",
            );
        }
    }
    if let Err(error) = config.quic.settings.link.check() {
        broken(
            "quic.mtu",
            error.to_string(),
            "1452 for the Internet, 6400 on loopback and with jumbo frames",
        );
    }
    let tls = &config.tls;
    if tls.certificate_file.as_os_str().is_empty() != tls.key_file.as_os_str().is_empty() {
        let (key, missing) = match tls.key_file.as_os_str().is_empty() {
            true => ("tls.certificate_file", "tls.key_file"),
            false => ("tls.key_file", "tls.certificate_file"),
        };
        broken(
            key,
            format!("is set, but {missing} is not"),
            "name both files, or neither",
        );
    }
    let router = &config.router;
    if router.message_bytes_max == 0 || router.message_bytes_max > limits::BODY_BYTES_MAX {
        let message = format!(
            "is {}, but must be 1 to {} bytes",
            router.message_bytes_max,
            limits::BODY_BYTES_MAX
        );
        broken(
            "router.message_bytes_max",
            message,
            "larger bodies belong into an object store, with a link in the message",
        );
    }
    let threads = [
        ("node.quic_threads", config.node.quic_threads),
        ("node.tcp_threads", config.node.tcp_threads),
    ];
    for (key, threads) in threads {
        if threads > THREADS_MAX {
            let message = format!("is {threads}, but must be 0 (as the cores have it) to {THREADS_MAX}");
            broken(key, message, "0 suits most machines");
        }
    }
    if router.workers > WORKERS_MAX {
        let message = format!("is {}, but must be 0 (one per core) to {WORKERS_MAX}", router.workers);
        broken("router.workers", message, "0 suits most machines");
    }
    if router.ttl_default_ms > router.ttl_max_ms {
        let message = format!(
            "is {}, above router.ttl_max_ms ({})",
            router.ttl_default_ms, router.ttl_max_ms
        );
        broken(
            "router.ttl_default_ms",
            message,
            "raise the maximum or lower the default",
        );
    }
    if router.backoff_first_ms > router.backoff_max_ms {
        let message = format!(
            "is {}, above router.backoff_max_ms ({})",
            router.backoff_first_ms, router.backoff_max_ms
        );
        broken(
            "router.backoff_first_ms",
            message,
            "raise the maximum or lower the first wait",
        );
    }
    if let Err(error) = crate::node::telemetry::log::parse_level(&config.log.level) {
        broken(
            "log.level",
            error,
            "use error, warn, info, debug or trace, or `info,weft::router=debug`",
        );
    }
    if config.node.id.is_empty() || config.node.id.len() > limits::ID_SEGMENT_BYTES_MAX {
        broken(
            "node.id",
            format!("must have 1 to {} bytes", limits::ID_SEGMENT_BYTES_MAX),
            "name the node as in a route: node_1",
        );
    }
}
