//! Configuration: which source wins, what is refused, and how the refusal reads.

use weft::node::config::{
    Gathered, Inputs, Listen, gather,
    setting::{Change, Origin, Problem, Setting, Source},
};

fn inputs(yaml: &str, environment: &[(&str, &str)]) -> Inputs {
    Inputs {
        file: Some(("weft.yaml".into(), yaml.into())),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        ..Inputs::default()
    }
}

fn accepted(yaml: &str, environment: &[(&str, &str)]) -> Gathered {
    gather(&inputs(yaml, environment)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn refused(yaml: &str, environment: &[(&str, &str)]) -> Vec<Problem> {
    gather(&inputs(yaml, environment)).expect_err("it was to be refused")
}

/// The one problem, as its line reads.
fn complaint(yaml: &str, environment: &[(&str, &str)]) -> String {
    let problems = refused(yaml, environment);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].to_string()
}

fn flag(name: &str, key: &str, value: &str) -> Setting {
    Setting {
        key: key.into(),
        change: Change::Text(value.into()),
        source: Source::new(Origin::Flag, name),
    }
}

#[test]
fn without_configuration_every_listener_is_on_loopback() {
    let gathered = gather(&Inputs::default()).unwrap();
    let config = &gathered.config;
    assert_eq!(config.http.listen, Listen::loopback(8000));
    assert_eq!(config.grpc.listen, Listen::loopback(50051));
    assert_eq!(
        (&config.quic.listen, &config.mqtt.listen),
        (&Listen::loopback(4433), &Listen::Off)
    );
    assert!(gathered.settings().all(|(_, _, source)| source.kind == Origin::Default));
}

#[test]
fn the_file_is_below_the_environment_and_the_environment_below_flags() {
    let mut inputs = inputs(
        "http: {listen: '127.0.0.1:1'}\ngrpc: {listen: '127.0.0.1:2'}\nnode: {id: from_file}\nrouter: {max_deliver: 3}\n",
        &[("WEFT_GRPC__LISTEN", "127.0.0.1:3"), ("WEFT_NODE__ID", "from_env")],
    );
    inputs.dotenv = Some("WEFT_NODE__ID=from_dotenv\nWEFT_ROUTER__MAX_DELIVER=4\n".into());
    inputs.flags = vec![flag("--data-dir", "node.data_dir", "/srv/weft")];
    let gathered = gather(&inputs).unwrap();
    let shown = |key: &str| {
        let (_, value, source) = gathered.settings().find(|(known, ..)| *known == key).unwrap();
        format!("{value} {source}")
    };
    assert_eq!(shown("http.listen"), "\"127.0.0.1:1\" file weft.yaml");
    assert_eq!(shown("grpc.listen"), "\"127.0.0.1:3\" env WEFT_GRPC__LISTEN");
    assert_eq!(shown("node.id"), "\"from_env\" env WEFT_NODE__ID");
    assert_eq!(shown("router.max_deliver"), "4 .env WEFT_ROUTER__MAX_DELIVER");
    assert_eq!(shown("node.data_dir"), "\"/srv/weft\" flag --data-dir");
    assert_eq!(gathered.config.router.node_id, "from_env");
}

#[test]
fn an_unknown_key_is_refused_with_its_file_its_path_and_a_suggestion() {
    let line = complaint("http: {listne: '127.0.0.1:1'}\n", &[]);
    assert_eq!(
        line,
        "file weft.yaml: http.listne: is not a setting (did you mean `http.listen`?)"
    );
    let line = complaint("htpp: {listen: '127.0.0.1:1', more: {x: 1}}\n", &[]);
    assert_eq!(line, "file weft.yaml: htpp: is not a setting (did you mean `http`?)");
    let line = complaint("", &[("WEFT_HTTP__LISTNE", "x")]);
    assert_eq!(
        line,
        "env WEFT_HTTP__LISTNE: is not a setting (did you mean `WEFT_HTTP__LISTEN`?)"
    );
    let line = complaint("router: {node_id: a}\n", &[]);
    assert!(line.ends_with("(did you mean `node.id`?)"), "{line}");
}

#[test]
fn a_wrong_type_names_the_key_the_value_and_what_is_expected() {
    let line = complaint("router: {max_deliver: many}\n", &[]);
    assert!(
        line.contains("router.max_deliver") && line.contains("\"many\""),
        "{line}"
    );
    assert!(
        line.contains("a whole number, 0 or more") && line.contains("default is 16"),
        "{line}"
    );
    let line = complaint("", &[("WEFT_ROUTER__FSYNC", "perhaps")]);
    assert!(
        line.contains("WEFT_ROUTER__FSYNC") && line.contains("true or false"),
        "{line}"
    );
    let line = complaint("http: {listen: 8000}\n", &[]);
    assert!(line.contains("http.listen") && line.contains("8000"), "{line}");
    let line = complaint("http: 8000\n", &[]);
    assert!(
        line.contains("is a section, not a value") && line.contains("such as"),
        "{line}"
    );
    let line = complaint("log: {format: xml}\n", &[]);
    assert!(line.contains("pretty") && line.contains("json"), "{line}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let problems = refused(
        "htpp: {}\nrouter: {max_deliver: -1}\n",
        &[("WEFT_NOD__ID", "x"), ("REDIS_URL", "redis://h")],
    );
    assert_eq!(problems.len(), 4, "{problems:#?}");
}

#[test]
fn yaml_that_is_none_names_the_file() {
    for text in ["http: [", "- a\n- b\n", "just text", "http: {}\nhttp: {}\n"] {
        let line = complaint(text, &[]);
        assert!(line.starts_with("file weft.yaml"), "{line}");
    }
    for text in ["", "# nothing yet\n", "http:\n"] {
        accepted(text, &[]);
    }
}

#[test]
fn sizes_and_durations_may_carry_their_unit() {
    let config = accepted(
        "router: {message_bytes_max: 2MiB, ttl_default_ms: 1h}\n",
        &[("WEFT_ROUTER__BACKOFF_FIRST_MS", "2s")],
    )
    .config;
    assert_eq!(config.router.message_bytes_max, 2 * 1024 * 1024);
    assert_eq!(config.router.ttl_default_ms, 3_600_000);
    assert_eq!(config.router.backoff_first_ms, 2_000);
}

#[test]
fn users_names_do_what_they_say_below_wefts_own() {
    let names = [
        ("APP_HOST", "127.0.0.2"),
        ("APP_PORT", "9000"),
        ("APP_DEBUG", "false"),
        ("LOG_LEVEL", "WARNING"),
        ("HTTP_TIMEOUT", "30"),
        ("WEBSOCKET_MAX_CONNECTIONS", "1000"),
        ("METRICS_ENABLED", "true"),
        ("SHARD_COUNT", "4"),
        ("ENABLE_SHARDING", "false"),
        ("REDIS_CLUSTER", "false"),
        ("ENABLE_ENCRYPTION", "false"),
        ("TRACING_ENABLED", "false"),
        ("REDIS_URL", ""),
    ];
    let gathered = accepted("", &names);
    assert_eq!(gathered.config.http.listen.to_string(), "127.0.0.2:9000");
    assert_eq!(gathered.source("http.listen").to_string(), "env APP_HOST, APP_PORT");
    assert_eq!(gathered.config.log.level, "warn");
    assert_eq!(gathered.config.router.workers, 4);
    let gathered = accepted("", &[("APP_PORT", "9000"), ("WEFT_HTTP__LISTEN", "127.0.0.1:7")]);
    assert_eq!(gathered.config.http.listen, Listen::loopback(7));
}

#[test]
fn a_feature_that_does_not_exist_yet_is_refused_and_its_secret_is_not_shown() {
    let cases = [
        ("REDIS_URL", "redis://:hunter2@localhost"),
        ("REDIS_CLUSTER", "true"),
        ("POSTGRES_URL", "postgresql://user:hunter2@localhost/db"),
        ("RABBITMQ_URL", "amqp://guest:hunter2@localhost"),
        ("JWT_SECRET_KEY", "hunter2"),
        ("ENABLE_ENCRYPTION", "true"),
        ("ENCRYPTION_KEY", "hunter2"),
        ("MQTT_KEEPALIVE", "60"),
        ("TRACING_ENABLED", "yes"),
        ("ENABLE_SHARDING", "1"),
        ("LOAD_BALANCER", "nginx"),
    ];
    for (name, value) in cases {
        let line = complaint("", &[(name, value)]);
        assert!(
            line.contains(name) && line.contains("does not have yet") && line.contains("unset"),
            "{line}"
        );
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_port_that_kubernetes_injected_is_skipped_with_a_warning() {
    let gathered = accepted(
        "",
        &[
            ("APP_PORT", "tcp://10.0.0.1:8000"),
            ("WEFT_PORT", "tcp://10.0.0.1:80"),
            ("WEFT_SERVICE_HOST", "x"),
        ],
    );
    assert_eq!(gathered.config.http.listen, Listen::loopback(8000));
    assert_eq!(gathered.warnings.len(), 1);
    assert!(gathered.warnings[0].contains("APP_PORT"), "{:?}", gathered.warnings);
}

#[test]
fn a_listener_that_others_can_reach_must_be_asked_for() {
    for listen in ["0.0.0.0:8000", "'[::]:8000'", "weft.internal:8000"] {
        let line = complaint(&format!("http: {{listen: {listen}}}\n"), &[]);
        assert!(
            line.contains("http.listen") && line.contains("--insecure") && line.contains("proxy"),
            "{line}"
        );
    }
    let line = complaint("", &[("APP_HOST", "0.0.0.0")]);
    assert!(line.starts_with("env APP_HOST"), "{line}");
    let mut inputs = inputs("", &[("APP_HOST", "0.0.0.0")]);
    inputs.flags = vec![flag("--insecure", "node.insecure", "true")];
    assert_eq!(gather(&inputs).unwrap().config.http.listen.to_string(), "0.0.0.0:8000");
}

#[test]
fn mqtt_is_off_until_it_is_asked_for() {
    assert_eq!(accepted("", &[]).config.mqtt.listen.to_string(), "off");
    let config = accepted("mqtt: {listen: '127.0.0.1:0', receive_max: 5}\n", &[]).config;
    assert_eq!(config.mqtt.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.mqtt.settings.receive_max, 5);
    let config = accepted("protocols: {mqtt: {enabled: true, broker_url: 'mqtt://x'}}\n", &[]).config;
    assert_eq!(config.mqtt.listen.to_string(), "127.0.0.1:1883");
}

/// The section as this stack's users have it, from its README.
const PROTOCOLS: &str = "
protocols:
  websocket:
    enabled: true
    max_connections: 1000
    heartbeat_interval: 15
    compression: true
    security:
      ssl_enabled: SSL
      certificate_path: /path/to/cert.pem
      key_path: /path/to/key.pem
  http:
    enabled: true
    timeout: 20
    retry_attempts: 3
  mqtt:
    enabled: MQTT
    broker_url: mqtt://localhost:1883
    client_id: agent_communication_system
    keepalive: 60
    qos_levels:
      default: 1
      high_priority: 2
  custom_protocol:
    enabled: CUSTOM
    implementation: my_custom_protocol.Protocol
    config:
      custom_param: value
";

#[test]
fn the_section_protocols_is_read_as_its_users_wrote_it() {
    let yaml = PROTOCOLS
        .replace("SSL", "false")
        .replace("MQTT", "false")
        .replace("CUSTOM", "false");
    let gathered = accepted(&yaml, &[]);
    let config = &gathered.config;
    assert_eq!(config.websocket.settings.max_connections, 1000);
    assert_eq!(config.websocket.settings.heartbeat_interval_ms, 15_000);
    assert_eq!(config.http.settings.request_timeout_ms, 20_000);
    assert_eq!(config.webhook.failures_max, 3);
    let source = gathered.source("websocket.max_connections").to_string();
    assert_eq!(source, "file weft.yaml (protocols.websocket.max_connections)");
    let own = accepted(&format!("{yaml}websocket: {{max_connections: 7}}\n"), &[]);
    assert_eq!(own.config.websocket.settings.max_connections, 7);
}

#[test]
fn what_protocols_switches_on_and_does_not_exist_is_refused() {
    let yaml = PROTOCOLS
        .replace("SSL", "true")
        .replace("MQTT", "true")
        .replace("CUSTOM", "true");
    let problems = refused(&yaml, &[]);
    let places: Vec<_> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "file weft.yaml: protocols.custom_protocol.enabled",
            "file weft.yaml: protocols.websocket.security.ssl_enabled",
        ]
    );
    assert!(
        problems
            .iter()
            .all(|problem| problem.message.contains("does not have yet"))
    );
    let line = complaint("protocols: {http: {rate_limiting: {burst_limit: 20}}}\n", &[]);
    assert!(line.contains("rate limits"), "{line}");
    let line = complaint("protocols: {websocket: {max_connection: 5}}\n", &[]);
    assert!(
        line.contains("did you mean `protocols.websocket.max_connections`?"),
        "{line}"
    );
    let line = complaint("protocols: {websockets: {max_connections: 5}}\n", &[]);
    assert!(
        line.contains("protocols.websockets") && line.contains("enabled: false"),
        "{line}"
    );
    let off = accepted(
        "protocols: {http: {enabled: false}, websocket: {enabled: false}}\n",
        &[],
    );
    assert_eq!(
        (&off.config.http.listen, off.config.websocket.enabled),
        (&Listen::Off, false)
    );
}

#[test]
fn a_secret_may_come_from_a_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let path = file.to_str().unwrap();
    let gathered = accepted("", &[("WEFT_WEBHOOK__SECRET_FILE", path)]);
    assert!(gathered.config.webhook.secret.is_some());
    assert_eq!(
        gathered.source("webhook.secret").to_string(),
        "env WEFT_WEBHOOK__SECRET_FILE"
    );
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let line = complaint(
        "",
        &[("WEFT_WEBHOOK__SECRET_FILE", path), ("WEFT_WEBHOOK__SECRET", secret)],
    );
    assert!(line.contains("keep one of") && !line.contains(secret), "{line}");
    let line = complaint("", &[("WEFT_WEBHOOK__SECRET_FILE", "/nowhere/secret")]);
    assert!(line.contains("/nowhere/secret"), "{line}");
    let line = complaint("", &[("WEFT_WEBHOOK__SECRET", "hunter2")]);
    assert!(
        line.contains("WEFT_WEBHOOK__SECRET") && !line.contains("hunter2"),
        "{line}"
    );
    let line = complaint("", &[("WEFT_NODE__ID_FILE", path)]);
    assert!(line.contains("no secret"), "{line}");
}

#[test]
fn pushes_to_this_machine_are_a_default_of_development_only() {
    assert!(accepted("", &[]).config.webhook.allow_loopback);
    assert!(!accepted("node: {insecure: true}\n", &[]).config.webhook.allow_loopback);
    assert!(
        !accepted("webhook: {allow_loopback: false}\n", &[])
            .config
            .webhook
            .allow_loopback
    );
}

#[test]
fn the_page_of_settings_lists_each_with_its_default() {
    let page = include_str!("../docs/configuration.md");
    let (_, page) = page.split_once("## All settings").unwrap();
    let documented: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let gathered = gather(&Inputs::default()).unwrap();
    let mut listed = 0;
    for (key, value, _) in gathered.settings() {
        let row = format!("| `{key}` | `{}` | ", weft::node::config::setting::shown(key, value));
        assert!(
            documented.iter().any(|line| line.starts_with(&row)),
            "docs/configuration.md has no row {row}"
        );
        listed += 1;
    }
    assert_eq!(
        documented.len(),
        listed,
        "docs/configuration.md lists settings that do not exist"
    );
}

#[test]
fn the_example_environment_file_lists_every_name_and_changes_nothing() {
    let text = include_str!("../.env.example");
    for name in weft::node::config::environment::user_names() {
        assert!(text.contains(&format!("{name}=")), "{name}");
    }
    let gathered = gather(&Inputs {
        dotenv: Some(text.into()),
        ..Inputs::default()
    })
    .unwrap_or_else(|problems| panic!("{problems:#?}"));
    let untouched = gather(&Inputs::default()).unwrap();
    let values = |gathered: &Gathered| {
        gathered
            .settings()
            .map(|(k, v, _)| format!("{k}={v}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&gathered), values(&untouched));
}
