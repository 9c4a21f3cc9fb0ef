//! The operations: parameters, bodies and every status of each.

use serde_json::{Map, Value, json};

use super::{
    super::{agents::PAGE_SIZE_MAX, operations::ENVELOPES_MAX, receive::POLL_MESSAGES_MAX},
    schemas::named,
};

/// Any duration; where it is longer than the node allows it is taken as the longest.
pub(super) const DURATION: &str = "^[0-9]{1,9}(?:ms|s|m|h)?$";
/// A duration of more than nothing and at most twelve hours.
const VISIBILITY: &str = "^(?:[1-9][0-9]{0,6}ms|[1-9][0-9]{0,3}s?|[1-9][0-9]?m|[1-9]h)$";

/// What a request of any kind may be answered with besides its success.
const ALWAYS: [u16; 8] = [400, 403, 415, 421, 429, 431, 500, 503];
/// What a request with a body may be answered with besides that.
const WITH_BODY: [u16; 2] = [408, 413];

/// An operation in the making.
struct Operation {
    tag: &'static str,
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<&'static str>,
    success: Vec<(u16, Value)>,
    problems: Vec<u16>,
}

fn operation(tag: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation {
        tag,
        id,
        summary,
        parameters: Vec::new(),
        body: None,
        success: Vec::new(),
        problems: ALWAYS.to_vec(),
    }
}

impl Operation {
    fn path(mut self, name: &str, schema: &str) -> Self {
        self.parameters
            .push(json!({"name": name, "in": "path", "required": true, "schema": named(schema)}));
        self
    }

    fn query(mut self, name: &str, description: &str, schema: Value) -> Self {
        self.parameters.push(
            json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema}),
        );
        self
    }

    fn header(mut self, name: &str, description: &str, schema: Value) -> Self {
        self.parameters.push(
            json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema}),
        );
        self
    }

    fn page(self, token: Value) -> Self {
        let size = json!({"type": "integer", "minimum": 1, "maximum": PAGE_SIZE_MAX, "default": 100});
        self.query("page_size", "Items of a page.", size).query(
            "page_token",
            "`next_page_token` of the page before.",
            token,
        )
    }

    fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self.problems.extend(WITH_BODY);
        self
    }

    fn gives(mut self, status: u16, schema: &str) -> Self {
        let content = json!({"application/json": {"schema": named(schema)}});
        self.success
            .push((status, json!({"description": describe(status), "content": content})));
        self
    }

    fn gives_text(mut self, status: u16, media_type: &str) -> Self {
        let content = json!({media_type: {"schema": {"type": "string"}}});
        self.success
            .push((status, json!({"description": describe(status), "content": content})));
        self
    }

    fn gives_nothing(mut self, status: u16) -> Self {
        self.success.push((status, json!({"description": describe(status)})));
        self
    }

    fn fails(mut self, statuses: &[u16]) -> Self {
        self.problems.extend(statuses);
        self
    }

    fn build(self) -> Value {
        let mut responses: Map<String, Value> = self
            .problems
            .iter()
            .map(|status| (status.to_string(), problem_response(*status)))
            .collect();
        responses.extend(
            self.success
                .into_iter()
                .map(|(status, response)| (status.to_string(), response)),
        );
        let mut operation = json!({
            "tags": [self.tag],
            "operationId": self.id,
            "summary": self.summary,
            "parameters": self.parameters,
            "responses": responses
        });
        if let Some(schema) = self.body {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": named(schema)}}});
        }
        operation
    }
}

fn problem_response(status: u16) -> Value {
    let mut response = json!({
        "description": describe(status),
        "content": {"application/problem+json": {"schema": named("Problem")}}
    });
    if matches!(status, 429 | 503) {
        response["headers"] =
            json!({"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}});
    }
    response
}

const fn describe(status: u16) -> &'static str {
    match status {
        200 => "As asked.",
        201 => "Created.",
        202 => "Accepted.",
        204 => "Done.",
        308 => "Elsewhere.",
        400 => "A field, parameter or header is wrong; `errors` names each.",
        403 => "Not allowed: by policy, or because a foreign web page asks.",
        404 => "Not known.",
        408 => "The body arrived too slowly.",
        409 => "It conflicts with what is there.",
        410 => "The session behind the reply address is gone.",
        413 => "Too large.",
        415 => "The media type or content encoding is not understood.",
        421 => "The node is not known by the name in `Host`.",
        422 => "The message was rejected.",
        429 => "A limit is reached; retry after `Retry-After`.",
        431 => "The request's line and headers are too large.",
        500 => "A fault of the node.",
        503 => {
            "Not possible now, or the outcome is unknown: retry with the same message id. Also while the node shuts down or its store is full."
        }
        504 => "No reply in time.",
        _ => "See the problem.",
    }
}

/// Every operation of this edge, by path and method.
pub(super) fn all() -> Map<String, Value> {
    let mut paths = Map::new();
    for (path, method, operation) in agents()
        .into_iter()
        .chain(receiving())
        .chain(messages())
        .chain(groups())
        .chain(node())
    {
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[method] = operation.build();
    }
    paths
}

type Listed = Vec<(&'static str, &'static str, Operation)>;

fn agents() -> Listed {
    let of = |id, summary| operation("agents", id, summary);
    let any_text = json!({"type": "string"});
    vec![
        (
            "/agents/register",
            "post",
            of("registerAgent", "Register an agent, or change its registration")
                .body("RegisterRequest")
                .gives(201, "RegisterAnswer")
                .gives(200, "RegisterAnswer")
                .fails(&[404]),
        ),
        (
            "/agents",
            "get",
            of("listAgents", "List agents; all conditions hold together")
                .query("capability", "Those that declare it.", named("Capability"))
                .query("protocol", "Those that name it.", any_text.clone())
                .query(
                    "online",
                    "Those with a session, or without.",
                    json!({"type": "boolean"}),
                )
                .query("prefix", "Those whose id begins so.", any_text)
                .page(named("AgentId"))
                .gives(200, "AgentPage"),
        ),
        (
            "/agents/connections",
            "get",
            of("listConnections", "List live sessions")
                .page(json!({"type": "string", "pattern": "^s_[0-9]{1,18}$"}))
                .gives(200, "ConnectionPage"),
        ),
        (
            "/agents/{agent_id}",
            "get",
            of("getAgent", "Show an agent")
                .path("agent_id", "AgentIdInPath")
                .gives(200, "Agent")
                .fails(&[404]),
        ),
        (
            "/agents/{agent_id}",
            "delete",
            of("removeAgent", "Remove an agent with its mailbox")
                .path("agent_id", "AgentIdInPath")
                .gives_nothing(204)
                .fails(&[404, 409]),
        ),
        (
            "/agents/{agent_id}/heartbeat",
            "post",
            of("heartbeat", "Say that an agent is alive")
                .path("agent_id", "AgentIdInPath")
                .gives(200, "Agent")
                .fails(&[404]),
        ),
    ]
}

fn with_terms(operation: Operation) -> Operation {
    let visibility = json!({"type": "string", "pattern": VISIBILITY, "default": "30s"});
    let ack = json!({"type": "string", "enum": ["manual", "auto"], "default": "manual"});
    operation
        .query(
            "ack",
            "Who acknowledges: the agent, or the node once it was written.",
            ack,
        )
        .query(
            "visibility_timeout",
            "When an unacknowledged message comes again.",
            visibility,
        )
}

fn receiving() -> Listed {
    let of = |id, summary| operation("receiving", id, summary).path("agent_id", "AgentIdInPath");
    let duration = json!({"type": "string", "pattern": DURATION, "default": "0s"});
    let max = json!({"type": "integer", "minimum": 1, "maximum": POLL_MESSAGES_MAX, "default": 10});
    vec![
        (
            "/agents/{agent_id}/messages",
            "get",
            with_terms(of("pollMessages", "Wait for messages (long poll); with `ack=auto` a crash of the client while the answer is on its way loses them"))
                .query("max", "Most messages.", max)
                .query("wait", "How long to wait for the first: 500ms, 20s, 5m.", duration)
                .gives(200, "PollAnswer")
                .fails(&[404, 409]),
        ),
        (
            "/agents/{agent_id}/messages/stream",
            "get",
            with_terms(of("streamMessages", "Receive messages as Server-Sent Events; an event's id is its delivery id"))
                .header("Last-Event-ID", "Resumes: what the ended stream's client saw up to it is settled with `ack=auto`, what came after it comes again.",
                    json!({"type": "string", "pattern": "^[ -~]*$"}))
                .gives_text(200, "text/event-stream")
                .fails(&[404, 409]),
        ),
        (
            "/agents/{agent_id}/messages/ack",
            "post",
            of("acknowledge", "Acknowledge messages; answered once that is committed").body("AckRequest").gives(200, "SettledAnswer").fails(&[404, 409]),
        ),
        (
            "/agents/{agent_id}/messages/nack",
            "post",
            of("refuse", "Refuse messages: again later, or to the dead letters").body("NackRequest").gives(200, "SettledAnswer").fails(&[404, 409]),
        ),
        (
            "/agents/{agent_id}/subscriptions",
            "put",
            of("putSubscriptions", "Replace the topic subscriptions whose messages come with the polls")
                .body("SubscriptionsRequest")
                .gives(200, "Subscriptions")
                .fails(&[404, 409]),
        ),
        (
            "/agents/{agent_id}/subscriptions",
            "get",
            of("getSubscriptions", "Show the topic subscriptions").gives(200, "Subscriptions").fails(&[404]),
        ),
        (
            "/agents/{agent_id}/subscriptions",
            "delete",
            of("deleteSubscriptions", "Remove the topic subscriptions with whatever waits for them").gives_nothing(204).fails(&[404, 409]),
        ),
        (
            "/agents/{agent_id}/dead-letters",
            "get",
            of("listDeadLetters", "List dead letters, oldest first").page(named("TrackingId")).gives(200, "KeptPage").fails(&[404]),
        ),
        (
            "/agents/{agent_id}/dead-letters/{message_id}/replay",
            "post",
            of("replayDeadLetter", "Put a dead letter back into the mailbox as new")
                .path("message_id", "MessageId")
                .gives(202, "ReplayAnswer")
                .fails(&[404, 409]),
        ),
    ]
}

fn messages() -> Listed {
    let of = |id, summary| operation("messages", id, summary);
    let key = || json!({"$ref": "#/components/schemas/MessageId"});
    let key_text = "The message id where the body names none.";
    let timeout = json!({"type": "string", "pattern": DURATION, "default": "30s"});
    vec![
        (
            "/messages/send",
            "post",
            of("sendMessage", "Send a message; accepted means that it is committed")
                .header("Idempotency-Key", key_text, key())
                .body("SendRequest")
                .gives(202, "Receipt")
                .fails(&[404, 409, 410, 422]),
        ),
        (
            "/messages/send/batch",
            "post",
            of(
                "sendBatch",
                "Send messages in order; a malformed one refuses the whole batch",
            )
            .body("BatchRequest")
            .gives(202, "BatchAnswer"),
        ),
        (
            "/messages/request",
            "post",
            of("request", "Send a message and wait for its reply")
                .header("Idempotency-Key", key_text, key())
                .query("timeout", "How long to wait for the reply.", timeout)
                .body("ReplyRequest")
                .gives(200, "DeliveredMessage")
                .fails(&[404, 409, 410, 422, 504]),
        ),
        (
            "/messages/{message_id}/status",
            "get",
            of(
                "getMessageStatus",
                "What became of a message; a tracking id in place of the message id is cheap",
            )
            .path("message_id", "MessageId")
            .query("from_agent", "Its sender, where two used one id.", named("AgentId"))
            .gives(200, "MessageStatus")
            .fails(&[404]),
        ),
    ]
}

fn groups() -> Listed {
    let of = |id, summary| operation("groups", id, summary);
    let acting = "Who does it, where nobody has to prove anything.";
    vec![
        (
            "/groups/create",
            "post",
            of("createGroup", "Create a group")
                .body("GroupRequest")
                .gives(201, "Group")
                .fails(&[404, 409]),
        ),
        (
            "/groups",
            "get",
            of("listGroups", "List groups")
                .page(named("GroupId"))
                .gives(200, "GroupPage"),
        ),
        (
            "/groups/{group_id}",
            "get",
            of("getGroup", "Show a group")
                .path("group_id", "GroupIdInPath")
                .gives(200, "Group")
                .fails(&[404]),
        ),
        (
            "/groups/{group_id}",
            "delete",
            of("removeGroup", "Remove a group")
                .path("group_id", "GroupIdInPath")
                .query("acting_agent", acting, named("AgentId"))
                .gives_nothing(204)
                .fails(&[404, 409]),
        ),
        (
            "/groups/{group_id}/members",
            "post",
            of("addMembers", "Add members")
                .path("group_id", "GroupIdInPath")
                .body("MembersRequest")
                .gives(200, "Group")
                .fails(&[404, 409]),
        ),
        (
            "/groups/{group_id}/members/{agent_id}",
            "delete",
            of("removeMember", "Remove a member")
                .path("group_id", "GroupIdInPath")
                .path("agent_id", "AgentIdInPath")
                .query("acting_agent", acting, named("AgentId"))
                .gives(200, "Group")
                .fails(&[404, 409]),
        ),
        (
            "/groups/{group_id}/messages",
            "get",
            of(
                "listGroupMessages",
                "A group's messages within its retention, oldest first",
            )
            .path("group_id", "GroupIdInPath")
            .page(named("TrackingId"))
            .gives(200, "KeptPage")
            .fails(&[404]),
        ),
    ]
}

fn node() -> Listed {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": ENVELOPES_MAX, "default": 100});
    let of = |id, summary| operation("operations", id, summary);
    let mut ready = of("getReady", "It may take traffic").gives(200, "Ready");
    ready.problems.retain(|status| *status != 503);
    vec![
        (
            "/protocols",
            "get",
            operation("protocols", "listProtocols", "The protocols of this node").gives(200, "ProtocolList"),
        ),
        (
            "/protocols/health",
            "get",
            operation("protocols", "getProtocolHealth", "How each protocol fares").gives(200, "ProtocolHealth"),
        ),
        (
            "/protocols/status",
            "get",
            operation("protocols", "getProtocolStatus", "What each protocol counted").gives(200, "ProtocolStatus"),
        ),
        (
            "/health",
            "get",
            of("getHealth", "The process lives").gives(200, "Health"),
        ),
        ("/ready", "get", ready.gives(503, "Ready")),
        (
            "/metrics",
            "get",
            of("getMetrics", "Prometheus' text format").gives_text(200, "text/plain"),
        ),
        (
            "/debug/messages",
            "get",
            of(
                "listPassedMessages",
                "The last envelopes that passed, newest first; never bodies or header values",
            )
            .query("agent", "Those from or to it.", named("AgentId"))
            .query("limit", "Most envelopes.", limit)
            .gives(200, "Envelopes"),
        ),
    ]
}
