//! Groups: creation, membership and history.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use serde::Serialize;

use super::{
    App,
    agents::{page_of, read_name, read_protocols},
    messages::within,
    receive::{TrackingToken, kept_page},
    request::{BatchBody, Caller, Params, PathIds},
    respond::{self, Answer},
};
use crate::{
    edge::json::{self, Errors, Field, Problem},
    frame::{AgentId, GroupId, limits::BODY_BYTES_MAX},
    router::registry::{
        CommunicationMode, GROUP_MEMBERS_MAX, GroupPolicies, GroupRecord, MemberPermissions, PartitionKey,
    },
    time::Timestamp,
};

/// Longest history of a group, in seconds: a year.
pub(super) const RETENTION_SECONDS_MAX: u64 = 366 * 24 * 3600;

const MODES: [(&str, CommunicationMode); 4] = [
    ("broadcast", CommunicationMode::Broadcast),
    ("round_robin", CommunicationMode::RoundRobin),
    ("least_loaded", CommunicationMode::LeastLoaded),
    ("partitioned", CommunicationMode::Partitioned),
];

/// A group as stored, with its times as users read them.
#[derive(Serialize)]
struct ShownGroup<'a> {
    group_id: &'a GroupId,
    name: &'a str,
    agents: &'a [AgentId],
    communication_mode: CommunicationMode,
    partition_key: &'a PartitionKey,
    protocols: &'a [String],
    policies: &'a GroupPolicies,
    created_by: Option<&'a AgentId>,
    created_at: String,
}

impl<'a> ShownGroup<'a> {
    fn of(group: &'a GroupRecord) -> Self {
        Self {
            group_id: &group.group_id,
            name: &group.name,
            agents: &group.agents,
            communication_mode: group.communication_mode,
            partition_key: &group.partition_key,
            protocols: &group.protocols,
            policies: &group.policies,
            created_by: group.created_by.as_ref(),
            created_at: group.created_at.to_rfc3339(),
        }
    }
}

/// `POST /groups/create`
pub(super) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    params: Params,
    BatchBody(body): BatchBody,
) -> Answer {
    params.finish()?;
    let group = read_group(&body.text)?;
    let stored = within(&app, app.fabric.create_group(&caller.principal, group)).await?;
    let location = format!("/groups/{}", respond::segment(stored.group_id.as_str()));
    let answer = respond::json(StatusCode::CREATED, &ShownGroup::of(&stored));
    Ok(respond::located(answer, &location))
}

fn read_group(text: &[u8]) -> Result<GroupRecord, Problem> {
    let mut errors = Errors::default();
    let mut object = json::read_object(text)?;
    let group_id = object
        .require("group_id", &mut errors)
        .and_then(|field| field.parsed(&mut errors));
    let agents = object
        .take("agents")
        .and_then(|field| field.parsed_set::<AgentId>(GROUP_MEMBERS_MAX, &mut errors))
        .unwrap_or_default();
    let communication_mode = object
        .take("communication_mode")
        .and_then(|field| field.one_of(&MODES, &mut errors))
        .unwrap_or_default();
    let partition_key = object
        .take("partition_key")
        .and_then(|field| read_partition_key(&field, &mut errors));
    let policies = object
        .take("policies")
        .and_then(|field| read_policies(&field, &mut errors));
    let record = GroupRecord {
        name: read_name(&mut object, &mut errors),
        protocols: read_protocols(&mut object, &mut errors),
        created_by: object.take("created_by").and_then(|field| field.parsed(&mut errors)),
        agents,
        communication_mode,
        partition_key: partition_key.unwrap_or_default(),
        policies: policies.unwrap_or_default(),
        // Overwritten by the door, like `created_by` of a proven caller.
        created_at: Timestamp::NEVER,
        group_id: match group_id {
            Some(group_id) => group_id,
            None => {
                object.finish("", &mut errors);
                return errors.finish(None);
            }
        },
    };
    object.finish("", &mut errors);
    errors.finish(Some(record))
}

fn read_partition_key(field: &Field<'_>, errors: &mut Errors) -> Option<PartitionKey> {
    let text = field.bounded_string(crate::router::registry::TEXT_BYTES_MAX, errors)?;
    match PartitionKey::try_from(text.into_owned()) {
        Ok(key) => Some(key),
        Err(detail) => {
            errors.at(field.pointer(), detail);
            None
        }
    }
}

fn read_policies(field: &Field<'_>, errors: &mut Errors) -> Option<GroupPolicies> {
    let mut object = field.object(errors)?;
    let size = object
        .take("max_message_size")
        .and_then(|field| field.integer(0..=BODY_BYTES_MAX as u64, errors));
    let retention = object
        .take("message_retention")
        .and_then(|field| field.integer(0..=RETENTION_SECONDS_MAX, errors));
    let permissions = object
        .take("member_permissions")
        .and_then(|field| read_permissions(&field, errors));
    object.finish("", errors);
    Some(GroupPolicies {
        max_message_size: size.unwrap_or_default(),
        message_retention: retention.unwrap_or_default(),
        member_permissions: permissions.unwrap_or_default(),
    })
}

fn read_permissions(field: &Field<'_>, errors: &mut Errors) -> Option<MemberPermissions> {
    let mut object = field.object(errors)?;
    let default = MemberPermissions::default();
    let mut flag = |name: &str, default: bool| {
        let given = object.take(name).and_then(|field| field.boolean(errors));
        given.unwrap_or(default)
    };
    let permissions = MemberPermissions {
        send_messages: flag("send_messages", default.send_messages),
        invite_members: flag("invite_members", default.invite_members),
        moderate: flag("moderate", default.moderate),
    };
    object.finish("", errors);
    Some(permissions)
}

#[derive(Serialize)]
struct GroupPage<'a> {
    groups: Vec<ShownGroup<'a>>,
    next_page_token: Option<&'a GroupId>,
}

/// `GET /groups`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller, mut params: Params) -> Answer {
    let (size, after) = page_of::<GroupId>(&mut params);
    params.finish()?;
    let mut groups = app.fabric.groups(&caller.principal, after.as_ref(), size + 1)?;
    let more = groups.len() > size;
    groups.truncate(size);
    let page = GroupPage {
        next_page_token: groups.last().filter(|_| more).map(|group| &group.group_id),
        groups: groups.iter().map(|group| ShownGroup::of(group)).collect(),
    };
    Ok(respond::json(StatusCode::OK, &page))
}

/// `GET /groups/{group_id}`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, params: Params) -> Answer {
    params.finish()?;
    let group = app.fabric.group(&caller.principal, &ids.get("group_id")?)?;
    Ok(respond::json(StatusCode::OK, &ShownGroup::of(&group)))
}

/// Who changes the group: the proven caller, or, where nobody has to prove anything, whom the request names.
fn acting(caller: &Caller, named: Option<AgentId>) -> Option<AgentId> {
    named.or_else(|| caller.agent().cloned())
}

/// `DELETE /groups/{group_id}`
pub(super) async fn remove(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, mut params: Params) -> Answer {
    let acting = acting(&caller, params.parsed("acting_agent"));
    params.finish()?;
    let group: GroupId = ids.get("group_id")?;
    within(
        &app,
        app.fabric.remove_group(&caller.principal, acting.as_ref(), &group),
    )
    .await?;
    Ok(respond::no_content())
}

/// `POST /groups/{group_id}/members`
pub(super) async fn add_members(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    params: Params,
    BatchBody(body): BatchBody,
) -> Answer {
    params.finish()?;
    let group: GroupId = ids.get("group_id")?;
    let mut errors = Errors::default();
    let mut object = json::read_object(&body.text)?;
    let named = object.take("acting_agent").and_then(|field| field.parsed(&mut errors));
    let members = object
        .require("agents", &mut errors)
        .and_then(|field| field.parsed_set::<AgentId>(GROUP_MEMBERS_MAX, &mut errors));
    object.finish("", &mut errors);
    let members = errors.finish(members)?;
    let acting = acting(&caller, named);
    let adding = app
        .fabric
        .add_members(&caller.principal, acting.as_ref(), &group, members);
    let stored = within(&app, adding).await?;
    Ok(respond::json(StatusCode::OK, &ShownGroup::of(&stored)))
}

/// `DELETE /groups/{group_id}/members/{agent_id}`
pub(super) async fn remove_member(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    mut params: Params,
) -> Answer {
    let acting = acting(&caller, params.parsed("acting_agent"));
    params.finish()?;
    let group: GroupId = ids.get("group_id")?;
    let member: AgentId = ids.get("agent_id")?;
    let removing = app
        .fabric
        .remove_member(&caller.principal, acting.as_ref(), &group, &member);
    let stored = within(&app, removing).await?;
    Ok(respond::json(StatusCode::OK, &ShownGroup::of(&stored)))
}

/// `GET /groups/{group_id}/messages`
pub(super) async fn history(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, mut params: Params) -> Answer {
    let (size, after) = page_of::<TrackingToken>(&mut params);
    params.finish()?;
    let group: GroupId = ids.get("group_id")?;
    let after = after.map(|token| token.0);
    let kept = within(
        &app,
        app.fabric.group_history(&caller.principal, &group, after, size + 1),
    )
    .await?;
    Ok(kept_page(kept, size))
}
