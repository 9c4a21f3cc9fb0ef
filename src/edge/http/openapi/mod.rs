//! The OpenAPI 3.1 description of the surface.
//!
//! Written by hand beside the readers it describes, not derived: requests are not read by derived types, and a derived schema would
//! say less than the readers check. `tests/schemathesis.rs` holds it against a running node. Start at [`Operations`].

mod paths;
mod schemas;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::config::Config;
use crate::router::Fabric;

/// What the description is made for: the bounds that stand in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub ttl_seconds_max: u64,
    pub batch_messages_max: usize,
}

/// Paths and schemas, gathered from this edge and from what is mounted on it.
#[derive(Debug)]
pub(super) struct Operations {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Operations {
    pub(super) fn of_this_edge(fabric: &Fabric, config: &Config) -> Self {
        Self::with(Bounds {
            ttl_seconds_max: fabric.config().ttl_max_ms / 1000,
            batch_messages_max: config.batch_messages_max,
        })
    }

    fn with(bounds: Bounds) -> Self {
        Self {
            paths: paths::all(),
            schemas: schemas::all(bounds),
        }
    }

    pub(super) fn add(&mut self, paths: Map<String, Value>, schemas: Map<String, Value>) {
        self.paths.extend(paths);
        self.schemas.extend(schemas);
    }

    fn into_value(self) -> Value {
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "weft",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "A messaging fabric for AI agents. Every error is a problem document (RFC 9457); /docs/errors explains its code. \
                                Bodies may come with `Content-Encoding: gzip` or `zstd`. A `traceparent` header (W3C) travels with messages.",
                "license": {"name": "MIT", "identifier": "MIT"}
            },
            "servers": [{"url": "/"}],
            "tags": [
                {"name": "agents", "description": "Registration and discovery"},
                {"name": "messages", "description": "Sending, and what became of it"},
                {"name": "receiving", "description": "Polls, event streams, acknowledgements, subscriptions, dead letters"},
                {"name": "groups", "description": "Named sets of agents"},
                {"name": "protocols", "description": "What this node serves"},
                {"name": "operations", "description": "For operators"}
            ],
            "paths": self.paths,
            "components": {"schemas": self.schemas}
        })
    }

    pub(super) fn into_text(self) -> Bytes {
        self.into_value().to_string().into()
    }
}

/// The description with the default bounds, for documentation that is built without a node.
pub fn document() -> Value {
    let router = crate::router::config::Config::default();
    Operations::with(Bounds {
        ttl_seconds_max: router.ttl_max_ms / 1000,
        batch_messages_max: Config::default().batch_messages_max,
    })
    .into_value()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn visit(value: &Value, found: &mut impl FnMut(&str)) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(name)) = map.get("$ref") {
                    found(name);
                }
                map.values().for_each(|value| visit(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| visit(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_resolves_and_every_schema_is_used() {
        let document = document();
        let mut used = HashSet::new();
        visit(&document, &mut |name| {
            used.insert(name.to_string());
        });
        for name in &used {
            let pointer = name.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{name}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(
                used.contains(&format!("#/components/schemas/{name}")),
                "{name} is never named"
            );
        }
    }

    #[test]
    fn every_operation_has_an_id_of_its_own_and_describes_its_problems() {
        let document = document();
        let mut ids = HashSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_string()), "{id}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(
                    responses.keys().any(|status| status.starts_with('2')),
                    "{method} {path}"
                );
                for placeholder in path.split('/').filter(|segment| segment.starts_with('{')) {
                    let name = placeholder.trim_matches(['{', '}']);
                    let parameters = operation["parameters"].as_array().unwrap();
                    assert!(
                        parameters.iter().any(|p| p["name"] == name && p["in"] == "path"),
                        "{method} {path}"
                    );
                }
            }
        }
    }
}
