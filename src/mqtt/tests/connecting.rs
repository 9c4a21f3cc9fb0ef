//! CONNECT, keep-alive, wills and ends.

use bytes::Bytes;

use super::world::{World, ack, at, connack_of, connect, id, lasting, publish};
use crate::{
    frame::{Frame, Qos},
    mqtt::{
        Action, Config, Connack, Connect, Disconnect, End, Goodbye, Malformed, Packet, Reason, Saved, SessionFate,
        Subscribe, Version, Will,
    },
};

fn connack(world: &mut World) -> Connack {
    connack_of(&world.sent()[0]).clone()
}

fn end(world: &mut World) -> End {
    let end = world.out.iter().find_map(|action| match action {
        Action::End(end) => Some((**end).clone()),
        _ => None,
    });
    end.expect("the connection ended")
}

fn disconnect(reason: Reason) -> Packet {
    Packet::Disconnect(Disconnect {
        reason,
        session_expiry_s: None,
        reason_string: None,
    })
}

fn with_will(delay_s: u32, connect: Connect) -> Connect {
    let will = Will {
        topic: "gone".into(),
        payload: Bytes::from_static(b"bye"),
        qos: Qos::AtLeastOnce,
        retain: true,
        delay_s,
        properties: None,
    };
    Connect {
        will: Some(will),
        ..connect
    }
}

#[test]
fn a_connack_says_what_is_needed_and_nothing_more() {
    let mut world = World::fresh(Config::default());
    world.connect(connect(Version::V5), None);
    let wanted = Connack {
        topic_alias_max: Some(10),
        receive_max: Some(20),
        ..Connack::refusing(Reason::SUCCESS)
    };
    assert_eq!(connack(&mut world), wanted);
}

#[test]
fn mqtt_3_1_3_6_and_3_2_2_16_a_client_without_an_id_gets_one_and_hears_it() {
    for clean_start in [true, false] {
        let mut world = World::fresh(Config::default());
        let nameless = Connect {
            client_id: String::new(),
            clean_start,
            ..connect(Version::V5)
        };
        world.connect(nameless, None);
        assert_eq!(connack(&mut world).assigned_client_id.as_deref(), Some("auto-1"));
    }
}

#[test]
fn mqtt_3_1_3_8_of_3_1_1_a_lasting_session_needs_a_client_id() {
    let mut world = World::fresh(Config::default());
    let nameless = Connect {
        client_id: String::new(),
        clean_start: false,
        ..connect(Version::V311)
    };
    world.packet(Packet::Connect(Box::new(nameless)));
    assert_eq!(connack(&mut world).reason, Reason::CLIENT_ID_NOT_VALID);
    assert_eq!(world.closed_with(), Some(Reason::CLIENT_ID_NOT_VALID)); // [MQTT-3.1.4-2]
}

#[test]
fn mqtt_3_2_2_2_and_3_session_present_says_whether_there_was_one() {
    for (clean_start, saved, present) in [
        (false, None, false),
        (false, Some(Saved::default()), true),
        (true, Some(Saved::default()), false),
    ] {
        let mut world = World::fresh(Config::default());
        let connect = Connect {
            clean_start,
            ..lasting(Version::V5)
        };
        world.connect(connect, saved);
        assert_eq!(connack(&mut world).session_present, present);
    }
}

#[test]
fn mqtt_3_1_0_1_and_2_the_first_packet_is_connect_and_no_later_one_is() {
    let mut world = World::fresh(Config::default());
    world.packet(Packet::Pingreq);
    assert!(world.sent().is_empty());
    assert_eq!(world.closed_with(), Some(Reason::PROTOCOL_ERROR));
    let mut world = World::connected(connect(Version::V5));
    world.packet(Packet::Connect(Box::new(connect(Version::V5))));
    assert!(matches!(&world.sent()[..], [Packet::Disconnect(said)] if said.reason == Reason::PROTOCOL_ERROR));
}

#[test]
fn mqtt_4_12_0_1_an_authentication_method_that_is_not_offered_is_refused() {
    let mut world = World::fresh(Config::default());
    let asking = Connect {
        auth_method: Some("SCRAM".into()),
        ..connect(Version::V5)
    };
    world.packet(Packet::Connect(Box::new(asking)));
    assert_eq!(connack(&mut world).reason, Reason::BAD_AUTHENTICATION_METHOD);
}

#[test]
fn malformed_bytes_end_a_connection_as_its_version_has_it() {
    let malformed = |version| Malformed {
        reason: Reason::MALFORMED_PACKET,
        version,
        what: "",
    };
    let mut world = World::connected(connect(Version::V5));
    world
        .session
        .handle_malformed(&malformed(Some(Version::V5)), at(0), &mut world.out);
    assert!(matches!(&world.sent()[..], [Packet::Disconnect(said)] if said.reason == Reason::MALFORMED_PACKET));
    for (reason, answers) in [
        (Reason::MALFORMED_PACKET, 0),
        (Reason::PROTOCOL_ERROR, 0),
        (Reason::UNSUPPORTED_VERSION, 1),
    ] {
        let mut world = World::fresh(Config::default());
        let malformed = Malformed {
            reason,
            ..malformed(Some(Version::V5))
        };
        world.session.handle_malformed(&malformed, at(0), &mut world.out);
        assert_eq!(world.sent().len(), answers, "{reason:?}");
        assert!(world.closed_with().is_some());
    }
}

#[test]
fn mqtt_3_1_2_22_a_silent_client_is_gone_after_one_and_a_half_keep_alives() {
    let patient = Connect {
        keep_alive_s: 10,
        ..connect(Version::V5)
    };
    let mut world = World::connected(patient);
    assert_eq!(world.session.next_deadline(), Some(at(15)));
    world.now = at(14);
    world.packet(Packet::Pingreq);
    assert_eq!(world.sent(), [Packet::Pingresp]); // [MQTT-3.12.4-1]
    world.session.handle_timeout(at(28), &mut world.out);
    assert!(world.out.is_empty());
    world.session.handle_timeout(at(29), &mut world.out);
    assert!(matches!(&world.sent()[..], [Packet::Disconnect(said)] if said.reason == Reason::KEEP_ALIVE_TIMEOUT));
    assert_eq!(world.closed_with(), Some(Reason::KEEP_ALIVE_TIMEOUT));
}

#[test]
fn a_keep_alive_of_0_never_ends_a_connection_and_a_servers_own_is_announced() {
    assert_eq!(World::connected(connect(Version::V311)).session.next_deadline(), None);
    let config = Config {
        keep_alive_max_s: Some(30),
        ..Config::default()
    };
    for (asked, announced) in [(0, Some(30)), (60, Some(30)), (20, None)] {
        let mut world = World::fresh(config.clone());
        let asking = Connect {
            keep_alive_s: asked,
            ..connect(Version::V5)
        };
        world.connect(asking, None);
        assert_eq!(connack(&mut world).server_keep_alive_s, announced); // [MQTT-3.1.2-21]
    }
}

#[test]
fn a_connection_that_brings_no_connect_ends_after_5_s() {
    let mut world = World::fresh(Config::default());
    assert_eq!(world.session.next_deadline(), Some(at(5)));
    world.session.handle_timeout(at(5), &mut world.out);
    assert!(world.closed_with().is_some());
    assert_eq!(world.session.next_deadline(), None);
}

#[test]
fn mqtt_3_1_2_8_a_will_is_published_when_the_connection_breaks() {
    let mut world = World::connected(with_will(0, connect(Version::V311)));
    world.session.handle_lost(at(3), &mut world.out);
    let (will, when) = end(&mut world).will.expect("a will");
    assert!(will.retain && when == at(3));
    let frame = Frame::decode(&mut Bytes::from(will.frame)).expect("a frame");
    assert_eq!(
        (frame.envelope.to(), frame.envelope.from(), &frame.body[..]),
        ("topic:gone", "me", &b"bye"[..])
    );
}

#[test]
fn mqtt_3_1_2_10_and_3_14_4_3_a_goodbye_discards_the_will_unless_it_asks_for_it() {
    for (reason, has_will) in [(Reason::SUCCESS, false), (Reason::DISCONNECT_WITH_WILL, true)] {
        let mut world = World::connected(with_will(0, connect(Version::V5)));
        world.packet(disconnect(reason));
        assert_eq!(end(&mut world).will.is_some(), has_will);
        world.packet(Packet::Pingreq);
        assert!(world.sent().is_empty());
    }
}

#[test]
fn mqtt_3_1_3_9_a_will_waits_for_its_delay_or_for_the_sessions_end() {
    for (delay_s, expiry_s, due) in [(10, 60, 10), (100, 60, 60), (10, 0, 0), (10, u32::MAX, 10)] {
        let patient = Connect {
            session_expiry_s: expiry_s,
            ..with_will(delay_s, connect(Version::V5))
        };
        let mut world = World::connected(patient);
        world.session.handle_lost(at(0), &mut world.out);
        assert_eq!(end(&mut world).will.unwrap().1, at(due), "{delay_s} {expiry_s}");
    }
}

#[test]
fn mqtt_3_1_2_23_a_session_lasts_as_long_as_was_agreed() {
    let fate = |connect| {
        let mut world = World::connected(connect);
        world.session.handle_lost(at(0), &mut world.out);
        end(&mut world).session
    };
    assert_eq!(fate(connect(Version::V311)), SessionFate::Ends);
    assert_eq!(fate(lasting(Version::V311)), SessionFate::Lasts(None));
    assert_eq!(fate(lasting(Version::V5)), SessionFate::Lasts(Some(at(3600))));
    let mut world = World::connected(lasting(Version::V5));
    world.packet(Packet::Disconnect(Disconnect {
        reason: Reason::SUCCESS,
        session_expiry_s: Some(0),
        reason_string: None,
    }));
    assert_eq!(end(&mut world).session, SessionFate::Ends);
}

#[test]
fn a_session_that_ends_with_its_connection_cannot_ask_to_last_when_it_leaves() {
    let mut world = World::connected(connect(Version::V5));
    world.packet(Packet::Disconnect(Disconnect {
        reason: Reason::SUCCESS,
        session_expiry_s: Some(10),
        reason_string: None,
    }));
    assert_eq!(world.closed_with(), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn mqtt_3_1_4_3_a_session_that_is_taken_over_hears_why() {
    for (goodbye, reason) in [
        (Goodbye::TakenOver, Reason::SESSION_TAKEN_OVER),
        (Goodbye::Draining, Reason::SERVER_SHUTTING_DOWN),
        (Goodbye::Kicked, Reason::ADMINISTRATIVE_ACTION),
    ] {
        let mut world = World::connected(connect(Version::V5));
        world.session.handle_goodbye(goodbye, at(0), &mut world.out);
        assert!(matches!(&world.sent()[..], [Packet::Disconnect(said)] if said.reason == reason));
        let mut world = World::connected(connect(Version::V311));
        world.session.handle_goodbye(goodbye, at(0), &mut world.out);
        assert!(world.sent().is_empty());
        assert_eq!(world.closed_with(), Some(reason));
    }
}

#[test]
fn nothing_goes_out_before_what_it_rests_on_is_durable() {
    let mut world = World::fresh(Config::default());
    world.packet(Packet::Connect(Box::new(lasting(Version::V5))));
    world.out.clear();
    let attached = crate::mqtt::Attached {
        agent: crate::frame::AgentId::new("me").unwrap(),
        nonce: 1,
        saved: None,
        in_flight: Vec::new(),
    };
    world.session.handle_attached(Ok(attached), at(0), &mut world.out);
    assert!(world.sent().is_empty());
    let (ticket, _) = world.take_save().expect("the session is kept before CONNACK");
    world.session.handle_save_failed(ticket, at(0), &mut world.out);
    assert_eq!(connack(&mut world).reason, Reason::SERVER_UNAVAILABLE);
}

#[test]
fn mqtt_3_8_4_1_and_6_a_suback_has_a_code_for_each_filter_and_follows_the_fabric() {
    let mut world = World::connected(connect(Version::V5));
    let filters = [("a", 1), ("b/#/c", 0), ("denied", 2)];
    let filter = |(text, qos)| super::world::filter(text, Qos::from_u8(qos).unwrap());
    world.packet(Packet::Subscribe(Subscribe {
        packet_id: id(4),
        subscription_id: None,
        filters: filters.map(filter).into(),
    }));
    let Some(Action::Subscribe { ticket, wanted }) = world.out.pop() else {
        panic!()
    };
    assert_eq!(wanted.len(), 2);
    let answers = [Ok(()), Err(Reason::NOT_AUTHORIZED)];
    world.session.handle_subscribed(ticket, &answers, &mut world.out);
    let codes = vec![Reason(1), Reason::TOPIC_FILTER_INVALID, Reason::NOT_AUTHORIZED];
    assert_eq!(world.sent(), [Packet::Suback(id(4), codes)]);
    assert!(matches!(&world.out[..], [Action::SendRetained(filters)] if filters.len() == 1));
    assert_eq!(world.session.subscriptions().len(), 1);
}

#[test]
fn what_is_retained_is_owed_to_a_session_that_lasts_and_sent_to_others() {
    for (connect, qos, is_owed) in [
        (lasting(Version::V311), Qos::AtLeastOnce, true),
        (lasting(Version::V5), Qos::ExactlyOnce, true),
        (lasting(Version::V5), Qos::AtMostOnce, false),
        (connect(Version::V5), Qos::ExactlyOnce, false),
    ] {
        let mut world = World::connected(connect);
        let filters = ["a/#", "$SYS/#"].map(|text| super::world::filter(text, qos)).into();
        world.packet(Packet::Subscribe(Subscribe {
            packet_id: id(4),
            subscription_id: None,
            filters,
        }));
        let Some(Action::Subscribe { ticket, wanted }) = world.out.pop() else {
            panic!()
        };
        assert_eq!(wanted.len(), 2);
        world
            .session
            .handle_subscribed(ticket, &[Ok(()), Ok(())], &mut world.out);
        // What is owed is kept by the save that SUBACK waits for.
        let owed = world
            .out
            .iter()
            .position(|action| matches!(action, Action::OweRetained(_)));
        let saved = world
            .out
            .iter()
            .position(|action| matches!(action, Action::Save { .. }));
        assert_eq!(owed.is_some(), is_owed);
        assert!(owed.is_none() || owed < saved, "{:?}", world.out);
        world.save_all();
        let sent: Vec<_> = world
            .out
            .iter()
            .filter_map(|action| match action {
                Action::SendRetained(filters) => Some(filters.len()),
                _ => None,
            })
            .collect();
        assert_eq!(
            sent,
            [if is_owed { 1 } else { 2 }],
            "the node's own topics are not owed"
        );
    }
}

#[test]
fn mqtt_3_8_3_4_a_shared_subscription_with_no_local_ends_the_connection() {
    let mut world = World::connected(connect(Version::V5));
    let mut filter = super::world::filter("$share/g/a", Qos::AtMostOnce);
    filter.no_local = true;
    world.packet(Packet::Subscribe(Subscribe {
        packet_id: id(4),
        subscription_id: None,
        filters: vec![filter],
    }));
    assert_eq!(world.closed_with(), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn mqtt_3_11_3_1_an_unsuback_has_a_code_for_each_filter() {
    let mut world = World::connected(connect(Version::V5));
    world.subscribe(&[super::world::filter("a", Qos::AtMostOnce)], None);
    world.packet(Packet::Unsubscribe(crate::mqtt::Unsubscribe {
        packet_id: id(5),
        filters: vec!["a".into(), "never".into()],
    }));
    let Some(Action::Unsubscribe { ticket, .. }) = world.out.pop() else {
        panic!()
    };
    world.session.handle_unsubscribed(ticket, Ok(()), at(0), &mut world.out);
    let codes = vec![Reason::SUCCESS, Reason::NO_SUBSCRIPTION_EXISTED];
    assert_eq!(world.sent(), [Packet::Unsuback(id(5), codes)]);
}

#[test]
fn whatever_a_client_sends_after_the_end_is_nothing() {
    let mut world = World::connected(connect(Version::V5));
    world.session.handle_lost(at(0), &mut world.out);
    world.out.clear();
    world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 1)));
    world.packet(Packet::Pubrel(ack(1)));
    world.session.handle_lost(at(1), &mut world.out);
    assert!(world.out.is_empty());
}
