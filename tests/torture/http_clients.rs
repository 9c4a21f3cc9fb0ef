//! Producers and consumers over HTTP: one call at a time, tried until it is answered.
//!
//! Owns how a message is sent, received and acknowledged over HTTP; what it means is noted in the [`Recorder`] and judged elsewhere.

use std::{sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    history::{Event, Message, MessageNo, Taken},
    real_node::http::Http,
    recorder::{Handed, PRIORITIES, Phase, RECIPIENTS, Recorder, body_of},
};

/// Pause before a call is tried again: a node under a restart is not asked more than this often.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Tries of one call, about a minute's worth; more means that the node does not come back.
const TRIES_MAX: usize = 2_400;
/// Chance that a message is sent again though it was answered: it must be known as a duplicate.
const REPEAT_CHANCE: f64 = 0.05;
/// Chance that a consumer refuses a message once, to have it at once again.
const REFUSE_CHANCE: f64 = 0.02;

/// Sends messages one by one until the load ends.
pub async fn produce(http: Http, recorder: Arc<Recorder>, name: String, seed: u64, pause: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    while recorder.phase() == Phase::Load {
        let (number, message) = recorder.invent(&name, &mut rng);
        let body = request_of(&message);
        send(&http, &recorder, number, &body).await;
        if rng.random_bool(REPEAT_CHANCE) {
            send(&http, &recorder, number, &body).await;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Sends one message to each queue's each priority: whatever waits there already is handed out before it.
pub async fn send_markers(http: &Http, recorder: &Recorder) {
    for recipient in 0..RECIPIENTS {
        for priority in PRIORITIES {
            let (number, message) = recorder.write_down("marker", recipient, priority, 1);
            send(http, recorder, number, &request_of(&message)).await;
        }
    }
}

fn request_of(message: &Message) -> Value {
    json!({
        "message_id": message.id, "from_agent": message.sender, "to_agent": message.recipient,
        "priority": message.priority, "qos": message.qos, "body": body_of(message),
    })
}

async fn send(http: &Http, recorder: &Recorder, message: MessageNo, body: &Value) {
    for _ in 0..TRIES_MAX {
        recorder.note(Event::Submitted(message));
        match http.post("/messages/send", body).await {
            Ok(answer) if answer.status.is_success() => {
                let again = answer.body["duplicate"] == true;
                let taken = if again { Taken::Again } else { Taken::First };
                let tracking = answer.body["tracking_id"]
                    .as_str()
                    .expect("QoS 1 and 2 have a tracking id");
                return recorder.accepted(message, taken, tracking);
            }
            Ok(answer) if answer.body["retryable"] == true => {}
            Ok(answer) => return recorder.note(Event::Strange(format!("a send was refused: {}", answer.body))),
            // The node was killed under it.
            Err(_) => {}
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    recorder.note(Event::Strange(format!("no answer to {body} in {TRIES_MAX} tries")));
}

/// Receives and acknowledges until everything is drained.
pub async fn consume(http: Http, recorder: Arc<Recorder>, name: String, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let poll = format!("/agents/{name}/messages?max=20&wait=500ms");
    while recorder.phase() != Phase::Done {
        let answer = match http.get(&poll).await {
            Ok(answer) if answer.status.is_success() => answer.body,
            _ => {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for message in answer["messages"].as_array().into_iter().flatten() {
            let text = |field: &str| message[field].as_str().unwrap_or_default();
            let handed = Handed {
                consumer: &name,
                sender: text("from_agent"),
                id: text("message_id"),
                priority: text("priority"),
                qos: message["qos"].as_u64().and_then(|qos| qos.try_into().ok()).unwrap_or(0),
                body: message["body"].clone(),
                delivery_id: text("delivery_id"),
            };
            if let Some(number) = recorder.delivered(&handed) {
                let refuse = rng.random_bool(REFUSE_CHANCE);
                let pile = if refuse { &mut refused } else { &mut done };
                pile.push((number, text("delivery_id").to_owned()));
            }
        }
        acknowledge(&http, &recorder, &name, &done).await;
        let ids: Vec<&String> = refused.iter().map(|(_, id)| id).collect();
        if !ids.is_empty() {
            let refusal = json!({"delivery_ids": ids, "retry_after": 0});
            // Whether it got there does not matter: the message comes again either way.
            let _ = http.post(&format!("/agents/{name}/messages/nack"), &refusal).await;
        }
    }
}

/// Acknowledges once: after a lost answer the message comes again, or it does not.
async fn acknowledge(http: &Http, recorder: &Recorder, name: &str, deliveries: &[(MessageNo, String)]) {
    if deliveries.is_empty() {
        return;
    }
    deliveries
        .iter()
        .for_each(|(number, _)| recorder.acknowledging(*number));
    let ids: Vec<&String> = deliveries.iter().map(|(_, id)| id).collect();
    let path = format!("/agents/{name}/messages/ack");
    let Ok(Ok(answer)) = http
        .post(&path, &json!({"delivery_ids": ids}))
        .await
        .map(|answer| answer.success())
    else {
        return;
    };
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    for ((number, _), result) in deliveries.iter().zip(results) {
        if result["status"] == "acknowledged" {
            recorder.note(Event::AckConfirmed(*number));
        }
    }
}
