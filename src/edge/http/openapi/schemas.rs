//! The schemas: grammars of ids, requests and answers.
//!
//! Bounds of long lists stand in descriptions, not in `maxItems`: test generators would build lists of that length.

use serde_json::{Map, Value, json};

use super::{super::operations, Bounds};
use crate::{
    edge::http::{groups::RETENTION_SECONDS_MAX, receive},
    frame::limits::{BODY_BYTES_MAX, FIELD_BYTES_MAX, HEADERS_MAX, ID_BYTES_MAX, TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX},
    router::registry::{CAPABILITIES_MAX, GROUP_MEMBERS_MAX, PROTOCOLS_MAX, TEXT_BYTES_MAX},
};

/// One segment of an id: 1–64 of the alphabet, and neither `.` nor `..`.
const SEGMENT: &str =
    r"(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}|\.[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,62}|\.\.[A-Za-z0-9._~-]{1,62})";
const TOKEN: &str = "[A-Za-z0-9._~-]{1,64}";
/// A character of a topic's level.
const LEVEL_CHARACTER: &str = r"[^/+#\u0000-\u001f\u007f-\u009f]";
/// One that takes a single byte.
const ASCII_LEVEL_CHARACTER: &str = r#"[ !"$%&'()*,.0-~-]"#;

/// Where messages are pushed to.
const PUSH_URL: &str = r"^https?://[A-Za-z0-9](?:[A-Za-z0-9.-]{0,61}[A-Za-z0-9])?(?::[0-9]{1,4})?(?:/[A-Za-z0-9._~/-]*)?(?:\?[A-Za-z0-9._~=&-]*)?$";

/// A reference to a schema.
pub(super) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn nullable(name: &str) -> Value {
    json!({"anyOf": [named(name), {"type": "null"}]})
}

fn id_pattern() -> String {
    format!("{SEGMENT}(?:/{SEGMENT})*")
}

fn id_in_path(description: &str) -> Value {
    json!({
        "type": "string",
        "description": description,
        "pattern": format!("^{}$", id_pattern()),
        "minLength": 1,
        "maxLength": ID_BYTES_MAX
    })
}

/// In a path a reserved id is another route; elsewhere it is refused.
fn id(description: &str) -> Value {
    let mut schema = id_in_path(description);
    schema["not"] = json!({"enum": ["register", "connections", "create", "send", "batch"]});
    schema
}

/// All schemas by name.
pub(super) fn all(bounds: Bounds) -> Map<String, Value> {
    let families = [grammars(), sending(bounds), receiving(), agents(), groups(), node()];
    families.into_iter().flat_map(object).collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A topic's levels, of the given characters.
fn topic(character: &str) -> String {
    format!("(?:{character}*/){{0,{}}}{character}*", TOPIC_LEVELS_MAX - 1)
}

/// MQTT-style: `+` for one level, `#` for the rest, `$share/<name>/<filter>` for a shared one.
fn filter(character: &str) -> String {
    let level = format!(r"(?:{character}*|\+)");
    let (more, more_shared) = (TOPIC_LEVELS_MAX - 1, TOPIC_LEVELS_MAX - 3);
    let share = format!(r"\$share/{character}+/(?=.)(?:{level}/){{0,{more_shared}}}(?:{level}|#)");
    let plain = format!(r"(?!\$share/)(?:{level}/){{0,{more}}}(?:{level}|#)");
    format!("(?:{plain}|{share})")
}

/// A text that is bounded in bytes, where a schema counts characters: ASCII up to the bound, anything up to a quarter of it.
/// Between them the bytes decide.
fn in_bytes(pattern: &dyn Fn(&str) -> String) -> Value {
    let bounded = |character: &str, characters_max: usize| json!({"type": "string", "pattern": format!("^{}$", pattern(character)), "minLength": 1, "maxLength": characters_max});
    json!({
        "description": format!("At most {TOPIC_BYTES_MAX} bytes of UTF-8 and {TOPIC_LEVELS_MAX} levels. In filters `+` is one level, `#` the rest, `$share/<name>/<filter>` a shared one."),
        "anyOf": [bounded(ASCII_LEVEL_CHARACTER, TOPIC_BYTES_MAX), bounded(LEVEL_CHARACTER, TOPIC_BYTES_MAX / 4)]
    })
}

fn grammars() -> Value {
    let id_text = id_pattern();
    let any_topic = topic(LEVEL_CHARACTER);
    json!({
        "AgentIdInPath": id_in_path("An agent's id, with `/` written `%2F`."),
        "GroupIdInPath": id_in_path("A group's id, with `/` written `%2F`."),
        "AgentId": id("Segments `[A-Za-z0-9._~-]{1,64}` joined by `/`, neither `.` nor `..`."),
        "GroupId": id("The grammar of an agent's id."),
        "Capability": id("The grammar of an agent's id."),
        "AgentAddress": {
            "type": "string",
            "description": "An agent's id, or `ID#TOKEN` from a reply address; `agent:` may stand before it.",
            "pattern": format!("^(?:agent:)?{id_text}(?:#{TOKEN})?$"),
            "maxLength": ID_BYTES_MAX,
            "not": {"pattern": "^(?:agent:)?(?:register|connections|create|send|batch)(?:#|$)"}
        },
        "Address": {
            "type": "string",
            "description": "Without a kind it is an agent's.",
            "pattern": format!("^(?:(?:agent:)?{id_text}(?:#{TOKEN})?|group:{id_text}|any:{id_text}|topic:(?=.){any_topic})$"),
            "maxLength": ID_BYTES_MAX,
            "examples": ["agent:agent_123#r-1"]
        },
        "TopicName": in_bytes(&|character| topic(character)),
        "TopicFilter": in_bytes(&|character| filter(character)),
        "MessageId": {"type": "string", "pattern": "^[A-Za-z0-9._~:-]{1,128}$", "minLength": 1, "maxLength": 128},
        "TrackingId": {"type": "string", "pattern": "^t_[0-3][0-9a-f]{2}-[0-9a-f]{1,16}$"},
        "DeliveryId": {"type": "string", "pattern": "^d_[0-3][0-9a-f]{2}-[0-9a-f]{1,16}-[0-9a-f]{1,16}$"},
        "ProtocolName": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$", "minLength": 1, "maxLength": 64,
                         "examples": ["websocket"]},
        "Priority": {"type": "string", "enum": ["low", "normal", "high", "critical"]},
        "Qos": {"type": "integer", "enum": [0, 1, 2]},
        "Time": {"type": "string", "format": "date-time", "examples": ["2026-01-02T03:04:05.678Z"]},
        "Problem": problem()
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "code", "retryable"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "code": {"type": "string", "pattern": "^WEFT-[0-9]{4}$"},
            "retryable": {"type": "boolean", "description": "True where the very same request may succeed later."},
            "retry_after": {"type": "integer", "minimum": 1, "description": "Seconds, as in `Retry-After`."},
            "errors": {"type": "array", "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body."},
                    "in": {"type": "string", "enum": ["query", "path", "header"]},
                    "parameter": {"type": "string"},
                    "detail": {"type": "string"}
                }
            }}
        },
        "examples": [{
            "type": "/docs/errors#WEFT-1000", "title": "Invalid request", "status": 400,
            "detail": "`/to_agent` has the character ' '; allowed are A-Z a-z 0-9 . _ ~ - and / between segments",
            "code": "WEFT-1000", "retryable": false,
            "errors": [{"pointer": "/to_agent", "detail": "has the character ' '; allowed are A-Z a-z 0-9 . _ ~ - and / between segments"}]
        }]
    })
}

/// The addressees of which a message names one.
const TARGETS: [&str; 4] = ["to_agent", "to_group", "to_topic", "to_capability"];

/// One form of a send request: the common fields and one way to give the body, with exactly one addressee.
fn send_form(bounds: Bounds, body: Value, required: &[&str], reply_to: ReplyTo) -> Value {
    let mut properties = object(json!({
        "message_id": named("MessageId"),
        "from_agent": named("AgentId"),
        "to_agent": named("AgentAddress"),
        "to_group": named("GroupId"),
        "to_topic": named("TopicName"),
        "to_capability": named("Capability"),
        "protocol": named("ProtocolName"),
        "priority": named("Priority"),
        "qos": named("Qos"),
        "headers": headers(),
        "content_type": {"type": "string", "maxLength": FIELD_BYTES_MAX}
    }));
    if matches!(reply_to, ReplyTo::Named) {
        properties.insert("reply_to".into(), named("Address"));
    }
    properties.extend(object(body));
    let mut required: Vec<_> = required.to_vec();
    required.push("from_agent");
    let with = |name: &str, schema: Value| {
        let mut properties = properties.clone();
        properties.insert(name.into(), schema);
        properties
    };
    let ttl = json!({"type": "integer", "minimum": 1, "maximum": bounds.ttl_seconds_max, "description": "In seconds."});
    let properties = with("ttl", ttl);
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
        "oneOf": TARGETS.map(|target| json!({"required": [target]}))
    })
}

#[derive(Clone, Copy)]
enum ReplyTo {
    Named,
    SetByFabric,
}

/// RFC 4648 §4, padded.
const BASE64: &str = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";

fn headers() -> Value {
    json!({
        "type": "object",
        "maxProperties": HEADERS_MAX,
        "properties": {
            "correlation_id": {"type": "string", "maxLength": FIELD_BYTES_MAX},
            "correlation_id_base64": {
                "type": "string", "contentEncoding": "base64", "pattern": BASE64, "maxLength": FIELD_BYTES_MAX.div_ceil(3) * 4,
                "description": "A correlation that is no text, as a delivered message shows it."
            },
            "message_type": {"type": "string", "maxLength": FIELD_BYTES_MAX}
        },
        "not": {"required": ["correlation_id", "correlation_id_base64"]},
        "propertyNames": {"pattern": r"^(?![Ww][Ee][Ff][Tt]-)[^\u0000-\u001f\u007f-\u009f]+$"},
        "additionalProperties": {"type": "string"}
    })
}

fn sending(bounds: Bounds) -> Value {
    let shorthand = json!({
        "type": "object",
        "description": "`type` becomes the header `message_type`, `priority` the priority. Where `content` is the only other key it is the body, else this whole object is.",
        "properties": {
            "type": {"type": "string", "maxLength": FIELD_BYTES_MAX},
            "priority": named("Priority"),
            "content": {"description": "Any JSON value."}
        },
        "additionalProperties": true
    });
    let forms = |reply_to| {
        json!([
            send_form(
                bounds,
                json!({"body": {"description": "Any JSON value; it reaches the receiver byte for byte."}}),
                &[],
                reply_to
            ),
            send_form(bounds, json!({"message": shorthand}), &["message"], reply_to),
            send_form(
                bounds,
                json!({"body_base64": {"type": "string", "contentEncoding": "base64", "pattern": BASE64}}),
                &["body_base64"],
                reply_to
            )
        ])
    };
    json!({
        "SendRequest": {
            "title": "SendRequest",
            "description": "Exactly one of `to_agent`, `to_group`, `to_topic` and `to_capability`; at most one of `body`, `message` and `body_base64`. \
                            Beside `ttl` there is `ttl_ms` (not both), and `protocol_required: true` makes `protocol` a demand. A proven sender may leave `from_agent` out.",
            "oneOf": forms(ReplyTo::Named),
            "examples": send_examples()
        },
        "ReplyRequest": {
            "title": "ReplyRequest",
            "description": "A send request; the fabric sets its reply address. `timeout` (`30s`, or seconds as a number) may stand here instead of in the query.",
            "oneOf": forms(ReplyTo::SetByFabric)
        },
        "BatchRequest": {
            "type": "object", "additionalProperties": false, "required": ["messages"],
            "properties": {"messages": {"type": "array", "description": format!("At most {}.", bounds.batch_messages_max), "items": named("SendRequest")}}
        },
        "BatchAnswer": {
            "type": "object", "required": ["results"],
            "properties": {"results": {"type": "array", "description": "One per message, in order.",
                "items": {"oneOf": [named("Receipt"), {"allOf": [named("Problem"), {"required": ["message_id"]}]}]}}}
        },
        "Receipt": {
            "type": "object",
            "required": ["message_id", "status", "tracking_id", "duplicate", "recipients", "routing_info"],
            "properties": {
                "message_id": named("MessageId"),
                "status": {"type": "string", "enum": ["queued", "sent", "delivered", "expired", "dead_lettered", "rejected", "dropped"]},
                "tracking_id": nullable("TrackingId"),
                "duplicate": {"type": "boolean"},
                "recipients": {"type": "integer", "minimum": 0},
                "routing_info": {
                    "type": "object",
                    "required": ["protocol_used", "route_taken", "estimated_delivery"],
                    "properties": {
                        "protocol_used": nullable("ProtocolName"),
                        "route_taken": {"type": "array", "items": {"type": "string"}},
                        "estimated_delivery": nullable("Time")
                    }
                }
            }
        },
        "MessageStatus": {
            "type": "object",
            "required": ["message_id", "tracking_id", "status", "delivery_attempts", "recipient_acknowledged", "recipients", "counts"],
            "properties": {
                "message_id": nullable("MessageId"),
                "tracking_id": named("TrackingId"),
                "status": {"type": "string", "enum": ["queued", "sent", "delivered", "expired", "dead_lettered", "rejected"]},
                "reason": {"type": ["string", "null"]},
                "accepted_at": nullable("Time"), "sent_at": nullable("Time"), "delivered_at": nullable("Time"),
                "acknowledged_at": nullable("Time"), "settled_at": nullable("Time"),
                "delivery_attempts": {"type": "integer", "minimum": 0},
                "recipient_acknowledged": {"type": "boolean"},
                "recipients": {"type": "integer", "minimum": 0},
                "counts": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
            }
        }
    })
}

fn send_examples() -> Value {
    json!([
        {"message_id": "msg_789", "from_agent": "agent_123", "to_agent": "agent_456", "protocol": "websocket",
         "priority": "normal", "qos": 1, "ttl": 3600,
         "headers": {"correlation_id": "corr_123", "message_type": "task_request"},
         "body": {"task": "process_data", "data": {"dataset": "sales_2024", "format": "csv"}}},
        {"from_agent": "agent_1", "to_agent": "agent_2", "protocol": "websocket",
         "message": {"type": "task_request", "content": "Analyze this dataset", "priority": "high"}}
    ])
}

/// The fields that every shown message has.
fn message_fields() -> Map<String, Value> {
    object(json!({
        "message_id": named("MessageId"),
        "from_agent": named("AgentId"),
        "to": {"type": "string"},
        "reply_to": {"type": "string"},
        "priority": named("Priority"),
        "qos": named("Qos"),
        "sent_at": nullable("Time"),
        "expires_at": nullable("Time"),
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "content_type": {"type": "string"},
        "body": {"description": "The body where it is JSON, byte for byte."},
        "body_base64": {"type": "string", "contentEncoding": "base64", "description": "Any other body."}
    }))
}

fn message(more: Value, required_more: &[&str]) -> Value {
    let mut properties = message_fields();
    properties.extend(object(more));
    let mut required = vec![
        "message_id",
        "from_agent",
        "to",
        "priority",
        "qos",
        "sent_at",
        "expires_at",
        "headers",
        "content_type",
    ];
    required.extend(required_more);
    json!({"type": "object", "required": required, "properties": properties})
}

fn receiving() -> Value {
    let ids = json!({"type": "array", "minItems": 1, "description": "At most 1,000.", "items": named("DeliveryId")});
    let kept = json!({
        "tracking_id": named("TrackingId"),
        "delivery_attempts": {"type": "integer", "minimum": 0},
        "reason": {"type": ["string", "null"]},
        "settled_at": nullable("Time")
    });
    let delivered = json!({
        "delivery_id": nullable("DeliveryId"),
        "redelivered": {"type": "boolean"},
        "delivery_attempt": {"type": "integer", "minimum": 1}
    });
    json!({
        "DeliveredMessage": message(delivered, &["delivery_id", "redelivered", "delivery_attempt"]),
        "KeptMessage": message(kept, &["tracking_id", "delivery_attempts", "reason", "settled_at"]),
        "PollAnswer": {"type": "object", "required": ["messages"],
            "properties": {"messages": {"type": "array", "items": named("DeliveredMessage")}}},
        "KeptPage": {"type": "object", "required": ["messages", "next_page_token"],
            "properties": {"messages": {"type": "array", "items": named("KeptMessage")}, "next_page_token": nullable("TrackingId")}},
        "AckRequest": {"type": "object", "additionalProperties": false, "required": ["delivery_ids"], "properties": {"delivery_ids": ids}},
        "NackRequest": {
            "type": "object", "additionalProperties": false, "required": ["delivery_ids"],
            "properties": {
                "delivery_ids": ids,
                "retry_after": {"type": "integer", "minimum": 0, "maximum": receive::RETRY_AFTER_SECONDS_MAX, "description": "In seconds."},
                "dead_letter": {"type": "boolean"}
            },
            "not": {"required": ["retry_after", "dead_letter"], "properties": {"dead_letter": {"const": true}}}
        },
        "SettledAnswer": {
            "type": "object", "required": ["results"],
            "properties": {"results": {"type": "array", "items": {
                "type": "object", "required": ["delivery_id", "status"],
                "properties": {
                    "delivery_id": named("DeliveryId"),
                    "status": {"type": "string", "enum": ["acknowledged", "refused", "stale", "failed"],
                        "description": "`acknowledged` or `refused` as asked. `stale`: handed out anew or settled before; nothing changed."},
                    "problem": named("Problem")
                }
            }}}
        },
        "SubscriptionsRequest": {
            "type": "object", "additionalProperties": false, "required": ["topics"],
            "properties": {"topics": {"type": "array", "uniqueItems": true, "description": format!("At most {}.", receive::TOPICS_MAX), "items": named("TopicFilter")}},
            "examples": [{"topics": ["a/+"]}]
        },
        "Subscriptions": {"type": "object", "required": ["agent_id", "topics"],
            "properties": {"agent_id": named("AgentId"), "topics": {"type": "array", "items": named("TopicFilter")}}},
        "ReplayAnswer": {"type": "object", "required": ["message_id", "tracking_id", "status"],
            "properties": {"message_id": named("MessageId"), "tracking_id": named("TrackingId"), "status": {"const": "queued"}}}
    })
}

fn agents() -> Value {
    let window = json!({"type": "object", "required": ["messages", "bytes"],
        "properties": {"messages": {"type": "integer", "minimum": 0}, "bytes": {"type": "integer", "minimum": 0}}});
    json!({
        "RegisterRequest": {
            "type": "object", "additionalProperties": false, "required": ["agent_id"],
            "properties": {
                "agent_id": named("AgentId"),
                "name": {"type": "string", "maxLength": TEXT_BYTES_MAX},
                "capabilities": {"type": "array", "uniqueItems": true, "maxItems": CAPABILITIES_MAX, "items": named("Capability")},
                "protocols": {"type": "array", "uniqueItems": true, "maxItems": PROTOCOLS_MAX, "items": named("ProtocolName")},
                "metadata": {"type": "object", "description": "Keys of the agent's own; at most 16 KiB."},
                "endpoints": {
                    "type": "object", "maxProperties": PROTOCOLS_MAX,
                    "description": "Protocol name to URL. An `http` one gets messages pushed while the agent has no session.",
                    "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$"},
                    "properties": {"http": {"type": "string", "maxLength": TEXT_BYTES_MAX, "pattern": PUSH_URL}},
                    "additionalProperties": {"type": "string", "maxLength": TEXT_BYTES_MAX,
                        "pattern": "^[A-Za-z][A-Za-z0-9+.-]*://[!-~]+$"}
                }
            },
            "examples": [{
                "agent_id": "agent_123", "name": "Data Processor Agent", "capabilities": ["data_processing", "analysis"],
                "protocols": ["websocket", "http", "mqtt"], "metadata": {"version": "1.0.0", "owner": "data_team"},
                "endpoints": {"websocket": "ws://127.0.0.1:8080/ws"}
            }]
        },
        "RegisterAnswer": {
            "type": "object", "required": ["agent_id", "registration_id", "status", "protocols_accepted", "registered_at"],
            "properties": {
                "agent_id": named("AgentId"), "registration_id": {"type": "string"}, "status": {"const": "registered"},
                "protocols_accepted": {"type": "array", "items": named("ProtocolName")}, "registered_at": named("Time")
            }
        },
        "Agent": {
            "type": "object", "required": ["agent_id", "status", "online", "sessions", "last_seen"],
            "properties": {
                "agent_id": named("AgentId"),
                "status": {"type": "string", "enum": ["registered", "unregistered"]},
                "online": {"type": "boolean"},
                "sessions": {"type": "integer", "minimum": 0},
                "last_seen": nullable("Time"),
                "registration_id": {"type": "string"}, "name": {"type": "string"},
                "capabilities": {"type": "array", "items": named("Capability")},
                "protocols": {"type": "array", "items": named("ProtocolName")},
                "metadata": {"type": ["object", "null"]},
                "endpoints": {"type": "object", "additionalProperties": {"type": "string"}},
                "registered_at": named("Time"), "updated_at": named("Time")
            }
        },
        "AgentPage": {"type": "object", "required": ["agents", "next_page_token"],
            "properties": {"agents": {"type": "array", "items": named("Agent")}, "next_page_token": nullable("AgentId")}},
        "ConnectionPage": {
            "type": "object", "required": ["connections", "next_page_token"],
            "properties": {
                "connections": {"type": "array", "items": {
                    "type": "object",
                    "required": ["session_id", "agent_id", "protocol", "node", "since", "credit", "in_flight", "queue_depth", "subscriptions"],
                    "properties": {
                        "session_id": {"type": "string"}, "agent_id": named("AgentId"), "protocol": named("ProtocolName"),
                        "node": {"type": "string"}, "since": named("Time"), "credit": window, "in_flight": window,
                        "queue_depth": {"type": "integer", "minimum": 0},
                        "subscriptions": {"type": "array", "items": named("TopicFilter")}
                    }
                }},
                "next_page_token": {"type": ["string", "null"]}
            }
        }
    })
}

fn groups() -> Value {
    let mode = json!({"type": "string", "enum": ["broadcast", "round_robin", "least_loaded", "partitioned"]});
    let partition_key = json!({"type": "string", "maxLength": TEXT_BYTES_MAX, "pattern": r"^(?:sender|header:[\s\S]+|/[\s\S]*)$",
        "description": "`sender`, `header:<name>` or a JSON pointer into the body."});
    let policies = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "max_message_size": {"type": "integer", "minimum": 0, "maximum": BODY_BYTES_MAX, "description": "In bytes; 0: the node's limit."},
            "message_retention": {"type": "integer", "minimum": 0, "maximum": RETENTION_SECONDS_MAX, "description": "In seconds; 0: no history."},
            "member_permissions": {
                "type": "object", "additionalProperties": false,
                "properties": {"send_messages": {"type": "boolean"}, "invite_members": {"type": "boolean"}, "moderate": {"type": "boolean"}}
            }
        }
    });
    let members = json!({"type": "array", "uniqueItems": true, "description": format!("At most {GROUP_MEMBERS_MAX}."), "items": named("AgentId")});
    json!({
        "GroupRequest": {
            "type": "object", "additionalProperties": false, "required": ["group_id"],
            "properties": {
                "group_id": named("GroupId"), "name": {"type": "string", "maxLength": TEXT_BYTES_MAX}, "agents": members,
                "communication_mode": mode, "partition_key": partition_key,
                "protocols": {"type": "array", "uniqueItems": true, "maxItems": PROTOCOLS_MAX, "items": named("ProtocolName")},
                "policies": policies,
                "created_by": named("AgentId")
            },
            "examples": [{
                "group_id": "analysis_team", "name": "Data Analysis Team", "agents": ["agent_123", "agent_456"],
                "communication_mode": "broadcast", "protocols": ["websocket"],
                "policies": {"max_message_size": 1_048_576, "message_retention": 86_400,
                             "member_permissions": {"send_messages": true, "invite_members": false, "moderate": false}}
            }]
        },
        "Group": {
            "type": "object",
            "required": ["group_id", "name", "agents", "communication_mode", "partition_key", "protocols", "policies", "created_by", "created_at"],
            "properties": {
                "group_id": named("GroupId"), "name": {"type": "string"}, "agents": members, "communication_mode": mode,
                "partition_key": partition_key, "protocols": {"type": "array", "items": named("ProtocolName")},
                "policies": policies, "created_by": nullable("AgentId"), "created_at": named("Time")
            }
        },
        "GroupPage": {"type": "object", "required": ["groups", "next_page_token"],
            "properties": {"groups": {"type": "array", "items": named("Group")}, "next_page_token": nullable("GroupId")}},
        "MembersRequest": {"type": "object", "additionalProperties": false, "required": ["agents"],
            "properties": {"agents": members, "acting_agent": named("AgentId")}}
    })
}

fn node() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    let seconds = json!({"type": ["number", "null"], "minimum": 0});
    json!({
        "ProtocolList": {"type": "object", "required": ["protocols"], "properties": {"protocols": {"type": "array", "items": {
            "type": "object", "required": ["name", "enabled", "version", "endpoint", "capabilities"],
            "properties": {
                "name": named("ProtocolName"), "enabled": {"type": "boolean"}, "version": {"type": "string"},
                "endpoint": {"type": ["string", "null"]},
                "capabilities": {
                    "type": "object", "required": ["encryption", "compression", "streaming", "qos_levels", "max_message_size"],
                    "properties": {
                        "encryption": {"type": "boolean"}, "compression": {"type": "boolean"}, "streaming": {"type": "boolean"},
                        "qos_levels": {"type": "array", "items": named("Qos")}, "max_message_size": count
                    }
                }
            }
        }}}},
        "ProtocolHealth": {"type": "object", "required": ["status", "protocols"], "properties": {
            "status": {"type": "string", "enum": ["healthy", "degraded"]},
            "protocols": {"type": "array", "items": {"type": "object", "required": ["name", "status", "detail"], "properties": {
                "name": named("ProtocolName"), "status": {"type": "string", "enum": ["healthy", "unhealthy", "disabled"]},
                "detail": {"type": ["string", "null"]}
            }}}
        }},
        "ProtocolStatus": {"type": "object", "required": ["protocols"], "properties": {"protocols": {"type": "array", "items": {
            "type": "object",
            "required": ["name", "enabled", "connections", "bytes_in", "bytes_out", "messages_in", "messages_out", "errors", "latency_seconds"],
            "properties": {
                "name": named("ProtocolName"), "enabled": {"type": "boolean"}, "connections": count, "connections_total": count,
                "connections_refused": count, "bytes_in": count, "bytes_out": count, "messages_in": count, "messages_out": count,
                "errors": count,
                "latency_seconds": {"type": "object", "required": ["p50", "p95", "p99"],
                    "properties": {"p50": seconds, "p95": seconds, "p99": seconds}}
            }
        }}}},
        "Health": {"type": "object", "required": ["status", "node", "version"],
            "properties": {"status": {"const": "ok"}, "node": {"type": "string"}, "version": {"type": "string"}}},
        "Ready": {"type": "object", "required": ["ready", "missing"],
            "properties": {"ready": {"type": "boolean"}, "missing": {"type": ["string", "null"]}}},
        "Envelopes": {"type": "object", "required": ["messages"], "properties": {"messages": {
            "type": "array", "maxItems": operations::ENVELOPES_MAX,
            "items": {
                "type": "object",
                "required": ["message_id", "from_agent", "to", "priority", "qos", "header_names", "accepted_at", "expires_at", "body_bytes", "shard"],
                "properties": {
                    "message_id": named("MessageId"), "from_agent": named("AgentId"), "to": {"type": "string"},
                    "priority": named("Priority"), "qos": named("Qos"), "message_type": {"type": "string"},
                    "content_type": {"type": "string"}, "header_names": {"type": "array", "items": {"type": "string"}},
                    "accepted_at": nullable("Time"), "expires_at": nullable("Time"), "body_bytes": count, "shard": count
                }
            }
        }}}
    })
}
