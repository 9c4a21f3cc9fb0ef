//! Bytes: golden packets, one refusal per rule, whatever bytes there are, and the library's client as the other end.

use bytes::{Buf, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::packet::{Qos as LibraryQos, v3_1_1, v5_0};
use proptest::prelude::*;

use super::world::{frame, id, publish};
use crate::{
    frame::{Frame, Qos, RunBuilder},
    mqtt::{
        Ack, Connack, Decoder, Disconnect, Encoder, Limits, Malformed, Packet, Publish, PublishProperties, Reason,
        TooLarge, Version,
    },
};

const LIMITS: Limits = Limits {
    packet_bytes_max: 1024 * 1024,
};
/// A CONNECT of client `a`, clean, keep-alive 60.
const CONNECT_311: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a";
const CONNECT_5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01a";

fn first(bytes: &[u8]) -> Result<Option<Packet>, Malformed> {
    Decoder::new(LIMITS).next(&mut BytesMut::from(bytes))
}

/// The packet after a CONNECT.
fn next(version: Version, bytes: &[u8]) -> Result<Option<Packet>, Reason> {
    let mut decoder = Decoder::new(LIMITS);
    let connect = if version == Version::V5 { CONNECT_5 } else { CONNECT_311 };
    decoder.next(&mut BytesMut::from(connect)).unwrap().unwrap();
    decoder
        .next(&mut BytesMut::from(bytes))
        .map_err(|malformed| malformed.reason)
}

fn encoded(version: Version, packet: &Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    Encoder::new(version, None).encode(packet, &mut bytes).unwrap();
    bytes.to_vec()
}

#[test]
fn what_is_not_whole_waits_and_whole_packets_come_one_by_one() {
    let mut decoder = Decoder::new(LIMITS);
    let mut buffer = BytesMut::new();
    for byte in &CONNECT_5[..CONNECT_5.len() - 1] {
        buffer.extend_from_slice(&[*byte]);
        assert_eq!(decoder.next(&mut buffer), Ok(None));
    }
    buffer.extend_from_slice(b"a\xc0\0\xc0\0");
    assert!(matches!(decoder.next(&mut buffer), Ok(Some(Packet::Connect(connect))) if connect.client_id == "a"));
    assert_eq!(decoder.version(), Some(Version::V5));
    assert_eq!(decoder.next(&mut buffer), Ok(Some(Packet::Pingreq)));
    assert_eq!(decoder.next(&mut buffer), Ok(Some(Packet::Pingreq)));
    assert_eq!(decoder.next(&mut buffer), Ok(None));
}

#[test]
fn a_payload_shares_the_buffers_memory() {
    let mut decoder = Decoder::new(LIMITS);
    decoder.next(&mut BytesMut::from(CONNECT_311)).unwrap();
    let mut buffer = BytesMut::from(&b"\x30\x08\0\x01tHELLO"[..]);
    let place = buffer.as_ptr() as usize;
    let Ok(Some(Packet::Publish(publish))) = decoder.next(&mut buffer) else {
        panic!()
    };
    assert_eq!(publish.payload.as_ptr() as usize, place + 5);
}

#[test]
fn the_first_packet_is_a_connect_of_16_kib_at_most() {
    assert_eq!(first(b"\xc0\0").unwrap_err().reason, Reason::PROTOCOL_ERROR); // [MQTT-3.1.0-1]
    assert_eq!(
        first(b"\x10\xff\xff\xff\x7f").unwrap_err().reason,
        Reason::PACKET_TOO_LARGE
    );
    assert_eq!(
        first(b"\x10\xff\xff\xff\xff").unwrap_err().reason,
        Reason::MALFORMED_PACKET
    );
    assert_eq!(first(b"\x10\x80\x7f"), Ok(None));
}

#[test]
fn mqtt_3_1_2_1_and_2_other_protocols_and_versions_are_told_apart() {
    let version = |bytes| first(bytes).map_err(|malformed| (malformed.reason, malformed.version));
    let unsupported = |version| Err((Reason::UNSUPPORTED_VERSION, version));
    assert_eq!(
        version(b"\x10\x0d\0\x04MQTT\x03\x02\0\x3c\0\x01a"),
        unsupported(Some(Version::V311))
    );
    assert_eq!(
        version(b"\x10\x0f\0\x06MQIsdp\x03\x02\0\x3c\0\x01a"),
        unsupported(Some(Version::V311))
    );
    assert_eq!(
        version(b"\x10\x0d\0\x04MQTT\x06\x02\0\x3c\0\x01a"),
        unsupported(Some(Version::V311))
    );
    assert_eq!(version(b"\x10\x0d\0\x04HTTP\x04\x02\0\x3c\0\x01a"), unsupported(None));
}

#[test]
fn a_connect_that_contradicts_itself_is_refused() {
    for (flags, rest, why) in [
        (0x03, &b""[..], "[MQTT-3.1.2-3] the reserved flag"),
        (0x0a, b"", "[MQTT-3.1.2-11] a will QoS without a will"),
        (0x22, b"", "[MQTT-3.1.2-13] a will retain without a will"),
        (0x1e, b"\0\x01t\0\0", "[MQTT-3.1.2-12] a will QoS of 3"),
        (0x02, b"x", "bytes behind the last field"),
        (0x82, b"", "[MQTT-3.1.2-17] a user name that is not there"),
    ] {
        for (level, properties) in [(4, &b""[..]), (5, b"\0")] {
            let mut body = [b"\0\x04MQTT", &[level, flags, 0, 60][..], properties, b"\0\x01a"].concat();
            if level == 5 && flags == 0x1e {
                body.push(0);
            }
            body.extend_from_slice(rest);
            let packet = [&[0x10, body.len() as u8], &body[..]].concat();
            let reason = first(&packet).map_err(|malformed| malformed.reason);
            assert!(
                reason.as_ref().is_err_and(|reason| reason.is_failure()),
                "{why}: {reason:?}"
            );
        }
    }
}

#[test]
fn mqtt_3_1_2_9_a_password_needs_a_user_name_in_3_1_1_alone() {
    let body = b"\0\x04MQTT\x04\x42\0\x3c\0\x01a\0\x01p";
    assert!(first(&[&[0x10, body.len() as u8], &body[..]].concat()).is_err()); // [3.1.1 MQTT-3.1.2-22]
    let body = b"\0\x04MQTT\x05\x42\0\x3c\0\0\x01a\0\x01p";
    let packet = first(&[&[0x10, body.len() as u8], &body[..]].concat())
        .unwrap()
        .unwrap();
    let Packet::Connect(connect) = packet else { panic!() };
    assert_eq!(
        (connect.password, connect.username),
        (Some(Bytes::from_static(b"p")), None)
    );
    let spoilt = b"\0\x04MQTT\x05\x42\0\x3c\0\0\x01a\0\x02p";
    assert!(first(&[&[0x10, spoilt.len() as u8], &spoilt[..]].concat()).is_err());
}

#[test]
fn every_rule_of_a_packets_form_is_kept() {
    use Version::{V5, V311};
    let cases: &[(Version, &[u8], Reason, &str)] = &[
        (
            V311,
            b"\x36\x05\0\x01t\0\x01",
            Reason::MALFORMED_PACKET,
            "[MQTT-3.3.1-4] QoS 3",
        ),
        (
            V311,
            b"\x38\x03\0\x01t",
            Reason::MALFORMED_PACKET,
            "[MQTT-3.3.1-2] DUP at QoS 0",
        ),
        (
            V311,
            b"\x32\x05\0\x01t\0\0",
            Reason::PROTOCOL_ERROR,
            "[MQTT-2.2.1-3] packet id 0",
        ),
        (
            V5,
            b"\x32\x06\0\x01t\0\0\0",
            Reason::PROTOCOL_ERROR,
            "[MQTT-2.2.1-3] packet id 0",
        ),
        (
            V311,
            b"\x30\x03\0\x01+",
            Reason::MALFORMED_PACKET,
            "[MQTT-3.3.2-2] a wildcard",
        ),
        (
            V311,
            b"\x30\x04\0\x02t\0",
            Reason::MALFORMED_PACKET,
            "[MQTT-1.5.4-2] U+0000",
        ),
        (
            V311,
            b"\x30\x05\0\x03\xed\xa0\x80",
            Reason::MALFORMED_PACKET,
            "[MQTT-1.5.4-1] a surrogate",
        ),
        (
            V311,
            b"\x30\x04\0\x02\xc3\x28",
            Reason::MALFORMED_PACKET,
            "[MQTT-1.5.4-1] no UTF-8",
        ),
        (
            V311,
            b"\x30\x02\0\0",
            Reason::MALFORMED_PACKET,
            "[MQTT-4.7.3-1] an empty topic",
        ),
        (
            V311,
            b"\x30\x03\0\x05t",
            Reason::MALFORMED_PACKET,
            "a topic beyond the packet",
        ),
        (V5, b"\x30\x03\0\0\0", Reason::PROTOCOL_ERROR, "neither topic nor alias"),
        (V5, b"\x30\x03\0\x01t", Reason::MALFORMED_PACKET, "no property length"),
        (
            V5,
            b"\x30\x05\0\x01t\x80\0",
            Reason::MALFORMED_PACKET,
            "[MQTT-1.5.5-1] a long zero",
        ),
        (
            V5,
            b"\x30\x84\0\0\x01t\0",
            Reason::MALFORMED_PACKET,
            "[MQTT-1.5.5-1] a long length",
        ),
        (
            V5,
            b"\x30\x08\0\x01t\x04\x01\0\x01\0",
            Reason::PROTOCOL_ERROR,
            "a property twice",
        ),
        (
            V5,
            b"\x30\x06\0\x01t\x02\x01\x02",
            Reason::PROTOCOL_ERROR,
            "a payload format of 2",
        ),
        (
            V5,
            b"\x30\x06\0\x01t\x02\x7f\0",
            Reason::MALFORMED_PACKET,
            "an unknown property",
        ),
        (
            V5,
            b"\x30\x06\0\x01t\x02\x0b\x01",
            Reason::PROTOCOL_ERROR,
            "[MQTT-3.3.4-6]",
        ),
        (
            V5,
            b"\x30\x08\0\x01t\x04\x08\0\x01#",
            Reason::PROTOCOL_ERROR,
            "[MQTT-3.3.2-14]",
        ),
        (
            V5,
            b"\x30\x0b\0\x01t\x07\x26\0\x01a\0\x01\0",
            Reason::MALFORMED_PACKET,
            "U+0000 in a property",
        ),
        (
            V311,
            b"\x80\x06\0\x01\0\x01t\0",
            Reason::MALFORMED_PACKET,
            "[MQTT-3.8.1-1] flags",
        ),
        (
            V311,
            b"\x82\x02\0\x01",
            Reason::PROTOCOL_ERROR,
            "[MQTT-3.8.3-2] no filter",
        ),
        (V311, b"\x82\x06\0\0\0\x01t\0", Reason::MALFORMED_PACKET, "packet id 0"),
        (
            V311,
            b"\x82\x06\0\x01\0\x01t\x03",
            Reason::MALFORMED_PACKET,
            "a requested QoS of 3",
        ),
        (
            V311,
            b"\x82\x06\0\x01\0\x01t\x04",
            Reason::MALFORMED_PACKET,
            "[3.1.1 MQTT-3.8.3-4]",
        ),
        (
            V5,
            b"\x82\x07\0\x01\0\0\x01t\x40",
            Reason::MALFORMED_PACKET,
            "[MQTT-3.8.3-5] reserved bits",
        ),
        (
            V5,
            b"\x82\x07\0\x01\0\0\x01t\x30",
            Reason::MALFORMED_PACKET,
            "a retain handling of 3",
        ),
        (
            V5,
            b"\x82\x09\0\x01\x02\x0b\0\0\x01t\0",
            Reason::MALFORMED_PACKET,
            "a subscription identifier of 0",
        ),
        (
            V311,
            b"\xa2\x02\0\x01",
            Reason::PROTOCOL_ERROR,
            "[MQTT-3.10.3-2] no filter",
        ),
        (
            V311,
            b"\x60\x02\0\x01",
            Reason::MALFORMED_PACKET,
            "[MQTT-3.6.1-1] PUBREL's flags",
        ),
        (
            V311,
            b"\x40\x03\0\x01\0",
            Reason::MALFORMED_PACKET,
            "bytes behind a PUBACK",
        ),
        (V311, b"\x40\x02\0\0", Reason::PROTOCOL_ERROR, "packet id 0"),
        (
            V5,
            b"\x40\x03\0\x01\x01",
            Reason::PROTOCOL_ERROR,
            "a reason that PUBACK has not",
        ),
        (V311, b"\xc0\x01\0", Reason::MALFORMED_PACKET, "bytes in a PINGREQ"),
        (V311, b"\xe0\x01\0", Reason::MALFORMED_PACKET, "bytes in a DISCONNECT"),
        (V311, b"\xf0\0", Reason::PROTOCOL_ERROR, "AUTH in 3.1.1"),
        (V311, b"\0\0", Reason::PROTOCOL_ERROR, "type 0"),
        (V5, b"\x20\x02\0\0", Reason::PROTOCOL_ERROR, "a server's packet"),
        (V5, CONNECT_5, Reason::PROTOCOL_ERROR, "[MQTT-3.1.0-2] a second CONNECT"),
        (V5, b"\x30\xff\xff\x7f", Reason::PACKET_TOO_LARGE, "above the limit"),
    ];
    for (version, bytes, reason, why) in cases {
        assert_eq!(next(*version, bytes), Err(*reason), "{why}");
    }
}

#[test]
fn what_the_library_takes_for_wrong_and_is_not_passes() {
    // An expiry of 0 and a byte order mark, which is no reason to strip or refuse [MQTT-1.5.4-3].
    let bytes = b"\x30\x0c\0\x04\xef\xbb\xbft\x05\x02\0\0\0\0";
    let Ok(Some(Packet::Publish(publish))) = next(Version::V5, bytes) else {
        panic!()
    };
    assert_eq!(publish.topic, "\u{feff}t");
    assert_eq!(publish.properties.unwrap().message_expiry_s, Some(0));
}

#[test]
fn golden_bytes_of_what_a_server_sends() {
    let connack = Connack {
        topic_alias_max: Some(10),
        receive_max: Some(20),
        ..Connack::refusing(Reason::SUCCESS)
    };
    let plain = |packet| encoded(Version::V5, &packet);
    assert_eq!(
        plain(Packet::Connack(Box::new(connack.clone()))),
        b"\x20\x09\0\0\x06\x22\0\x0a\x21\0\x14"
    );
    let assigned = Connack {
        assigned_client_id: Some("x".into()),
        server_keep_alive_s: Some(60),
        ..connack
    };
    assert_eq!(
        plain(Packet::Connack(Box::new(assigned))),
        b"\x20\x10\0\0\x0d\x13\0\x3c\x22\0\x0a\x12\0\x01x\x21\0\x14"
    );
    let refused = Packet::Connack(Box::new(Connack::refusing(Reason::CLIENT_ID_NOT_VALID)));
    assert_eq!(encoded(Version::V5, &refused), b"\x20\x03\0\x85\0");
    assert_eq!(encoded(Version::V311, &refused), b"\x20\x02\0\x02");
    let ack = |reason| Ack::new(id(0x0102), reason);
    assert_eq!(plain(Packet::Puback(ack(Reason::SUCCESS))), b"\x40\x02\x01\x02");
    assert_eq!(
        plain(Packet::Puback(ack(Reason::NO_MATCHING_SUBSCRIBERS))),
        b"\x40\x03\x01\x02\x10"
    );
    assert_eq!(plain(Packet::Pubrel(ack(Reason::SUCCESS))), b"\x62\x02\x01\x02");
    assert_eq!(
        plain(Packet::Suback(id(1), vec![Reason(1), Reason::NOT_AUTHORIZED])),
        b"\x90\x05\0\x01\0\x01\x87"
    );
    let old = Packet::Suback(id(1), vec![Reason(1), Reason::NOT_AUTHORIZED]);
    assert_eq!(encoded(Version::V311, &old), b"\x90\x04\0\x01\x01\x80"); // [3.1.1 MQTT-3.9.3-2]
    let unsuback = Packet::Unsuback(id(1), vec![Reason::NO_SUBSCRIPTION_EXISTED]);
    assert_eq!(encoded(Version::V5, &unsuback), b"\xb0\x04\0\x01\0\x11");
    assert_eq!(encoded(Version::V311, &unsuback), b"\xb0\x02\0\x01");
    let disconnect = Packet::Disconnect(Disconnect {
        reason: Reason::SESSION_TAKEN_OVER,
        session_expiry_s: None,
        reason_string: None,
    });
    assert_eq!(encoded(Version::V5, &disconnect), b"\xe0\x01\x8e");
    assert_eq!(encoded(Version::V311, &disconnect), b"");
    assert_eq!(plain(Packet::Pingresp), b"\xd0\0");
}

#[test]
fn golden_bytes_of_a_publish_with_every_property() {
    let properties = PublishProperties {
        payload_format: Some(1),
        message_expiry_s: Some(2),
        content_type: Some("c".into()),
        response_topic: Some("r".into()),
        correlation: Some(Bytes::from_static(b"k")),
        subscription_ids: vec![300],
        topic_alias: Some(4),
        user: vec![("n".into(), "v".into())],
    };
    let publish = Packet::Publish(Publish {
        dup: true,
        retain: true,
        qos: Qos::ExactlyOnce,
        topic: "t".into(),
        packet_id: Some(id(5)),
        properties: Some(Box::new(properties)),
        payload: Bytes::from_static(b"p"),
    });
    let wanted = b"\x3d\x27\0\x01t\0\x05\x20\x0b\xac\x02\x23\0\x04\x01\x01\x03\0\x01c\x08\0\x01r\x09\0\x01k\x26\0\x01n\0\x01v\x02\0\0\0\x02p";
    let bytes = encoded(Version::V5, &publish);
    assert_eq!(bytes, wanted);
    assert_eq!(encoded(Version::V311, &publish), b"\x3d\x06\0\x01t\0\x05p");
}

#[test]
fn mqtt_3_1_2_24_nothing_above_the_clients_maximum_is_written_and_reason_strings_give_way() {
    let mut ack = Ack::new(id(1), Reason::QUOTA_EXCEEDED);
    ack.reason_string = Some("x".repeat(50));
    let mut bytes = BytesMut::new();
    for max in 0..80 {
        bytes.clear();
        let written = Encoder::new(Version::V5, Some(max)).encode(&Packet::Puback(ack.clone()), &mut bytes);
        match max {
            0..5 => assert_eq!(
                written,
                Err(TooLarge {
                    bytes: 5,
                    max: max as usize
                })
            ),
            5..59 => assert_eq!((written, bytes.len()), (Ok(()), 5)),
            _ => assert_eq!((written, bytes.len()), (Ok(()), 59)),
        }
    }
}

fn library_qos(qos: Qos) -> LibraryQos {
    match qos {
        Qos::AtMostOnce => LibraryQos::AtMostOnce,
        Qos::AtLeastOnce => LibraryQos::AtLeastOnce,
        Qos::ExactlyOnce => LibraryQos::ExactlyOnce,
    }
}

proptest! {
    #[test]
    fn whatever_bytes_come_nothing_panics_and_nothing_is_read_twice(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(Version::V311), Just(Version::V5)],
    ) {
        let _ = first(&bytes);
        let mut decoder = Decoder::new(LIMITS);
        let connect = if version == Version::V5 { CONNECT_5 } else { CONNECT_311 };
        decoder.next(&mut BytesMut::from(connect)).unwrap();
        let mut buffer = BytesMut::from(&bytes[..]);
        loop {
            let before = buffer.len();
            match decoder.next(&mut buffer) {
                Ok(Some(_)) => prop_assert!(buffer.len() < before),
                Ok(None) | Err(_) => break,
            }
        }
    }

    #[test]
    fn a_spoilt_packet_never_panics(
        at in 0usize..44,
        byte in any::<u8>(),
        cut in 0usize..44,
    ) {
        let mut packet = b"\x3d\x27\0\x01t\0\x05\x1d\x23\0\x04\x01\x01\x03\0\x01c\x08\0\x01r\x09\0\x01k\x26\0\x01n\0\x01v\x02\0\0\0\x02pqqq".to_vec();
        let last = packet.len() - 1;
        packet[at.min(last)] = byte;
        let _ = next(Version::V5, &packet);
        packet.truncate(cut);
        let _ = next(Version::V5, &packet);
        let _ = next(Version::V311, &packet);
    }

    #[test]
    fn what_is_written_is_what_is_read(
        topic in "[a-zäß/]{1,40}",
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        qos in 0u8..3,
        retain in any::<bool>(),
        number in 1u16..,
        expiry in proptest::option::of(any::<u32>()),
        content_type in proptest::option::of("[a-z/]{1,20}"),
        correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        user in proptest::collection::vec(("[a-z]{0,5}", "\\PC{0,10}"), 0..4),
    ) {
        let qos = Qos::from_u8(qos).unwrap();
        let properties = PublishProperties {
            message_expiry_s: expiry,
            content_type,
            correlation: correlation.map(Bytes::from),
            user,
            ..PublishProperties::default()
        };
        for version in [Version::V311, Version::V5] {
            let kept = Some(Box::new(properties.clone())).filter(|kept| version == Version::V5 && !kept.is_empty());
            let publish = Packet::Publish(Publish {
                dup: false,
                retain,
                qos,
                topic: topic.clone(),
                packet_id: qos.is_durable().then(|| id(number)),
                properties: kept,
                payload: Bytes::from(payload.clone()),
            });
            let bytes = encoded(version, &publish);
            prop_assert_eq!(next(version, &bytes), Ok(Some(publish)));
        }
    }

    #[test]
    fn what_the_librarys_client_writes_is_read(
        topic in "[a-z/]{1,40}",
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        qos in 0u8..3,
        number in 1u16..,
    ) {
        let qos = Qos::from_u8(qos).unwrap();
        let old = v3_1_1::Publish::builder().topic_name(&*topic).unwrap().qos(library_qos(qos)).payload(payload.clone());
        let new = v5_0::Publish::builder().topic_name(&*topic).unwrap().qos(library_qos(qos)).payload(payload.clone());
        let (old, new) = match qos.is_durable() {
            true => (old.packet_id(number), new.packet_id(number)),
            false => (old, new),
        };
        let old = old.build().unwrap().to_continuous_buffer();
        let new = new.build().unwrap().to_continuous_buffer();
        for (version, bytes) in [(Version::V311, old), (Version::V5, new)] {
            let Ok(Some(Packet::Publish(publish))) = next(version, &bytes) else { panic!() };
            prop_assert_eq!(&publish.topic, &topic);
            prop_assert_eq!(&publish.payload[..], &payload[..]);
            prop_assert_eq!(publish.qos, qos);
            prop_assert_eq!(encoded(version, &Packet::Publish(publish)), bytes);
        }
    }
}

#[test]
fn publishes_that_differ_in_their_payload_alone_are_seen_without_being_read() {
    for version in [Version::V311, Version::V5] {
        let publish = |topic: &str, payload: &'static [u8], qos| {
            encoded(
                version,
                &Packet::Publish(Publish {
                    dup: false,
                    retain: false,
                    qos,
                    topic: topic.into(),
                    packet_id: qos.is_durable().then(|| id(1)),
                    properties: None,
                    payload: Bytes::from_static(payload),
                }),
            )
        };
        let bytes = [
            publish("a", b"1", Qos::AtMostOnce),
            publish("a", b"two", Qos::AtMostOnce),
            publish("b", b"3", Qos::AtMostOnce),
        ];
        let mut decoder = Decoder::new(LIMITS);
        let connect = if version == Version::V5 { CONNECT_5 } else { CONNECT_311 };
        decoder.next(&mut BytesMut::from(connect)).unwrap().unwrap();
        let mut buffer = BytesMut::from(&bytes.concat()[..]);
        assert_eq!(decoder.twin(&buffer), None, "nothing to compare with");
        decoder.next(&mut buffer).unwrap().unwrap();
        let twin = decoder.twin(&buffer).unwrap().payload;
        assert_eq!(&buffer[twin.clone()], b"two");
        assert_eq!(twin.end, bytes[1].len());
        assert_eq!(
            decoder.twin(&BytesMut::from(&buffer[..twin.end - 1])),
            None,
            "not whole"
        );
        let other_qos = publish("a", b"two", Qos::AtLeastOnce);
        assert_eq!(decoder.twin(&BytesMut::from(&other_qos[..])), None);
        buffer.advance(twin.end);
        assert_eq!(decoder.twin(&buffer), None, "another topic");
        decoder.rest();
        assert_eq!(decoder.twin(&BytesMut::from(&bytes[1][..])), None);
    }
}

#[test]
fn a_run_is_written_as_its_messages_would_be_one_by_one() {
    let frames = ["one", "and two", ""].map(|body| {
        let mut frame = frame("topic:a/b", Qos::AtMostOnce);
        frame.body = Bytes::from_static(body.as_bytes());
        frame
    });
    let mut run = RunBuilder::new(frames[0].clone());
    for frame in &frames[1..] {
        assert!(run.push(b"m-2", &frame.body, 64));
    }
    let run = run.finish();
    let alias = PublishProperties {
        topic_alias: Some(3),
        ..PublishProperties::default()
    };
    for (version, properties, qos) in [
        (Version::V311, None, Qos::AtMostOnce),
        (Version::V311, None, Qos::AtLeastOnce),
        (Version::V5, Some(Box::new(alias.clone())), Qos::AtMostOnce),
        (Version::V5, Some(Box::new(alias)), Qos::AtLeastOnce),
    ] {
        let like = Publish {
            dup: false,
            retain: false,
            qos,
            topic: "a/b".into(),
            packet_id: None,
            properties,
            payload: Bytes::new(),
        };
        let ids = match qos {
            Qos::AtMostOnce => vec![],
            _ => vec![id(0x0102), id(7), id(65_535)],
        };
        let mut together = BytesMut::new();
        Encoder::new(version, None)
            .encode_run(&like, &run, &ids, &mut together)
            .unwrap();
        let single = |(at, frame): (usize, &Frame)| {
            let publish = Publish {
                payload: frame.body.clone(),
                packet_id: ids.get(at).copied(),
                ..like.clone()
            };
            encoded(version, &Packet::Publish(publish))
        };
        assert_eq!(together, frames.iter().enumerate().flat_map(single).collect::<Vec<_>>());
        let too_small = Encoder::new(version, Some(8)).encode_run(&like, &run, &ids, &mut together);
        assert!(too_small.is_err());
    }
}

#[test]
fn a_qos_1_twin_differs_in_its_packet_id_too() {
    let like = |packet_id: u16, payload: &'static [u8]| {
        encoded(
            Version::V311,
            &Packet::Publish(Publish {
                payload: Bytes::from_static(payload),
                ..publish("a/b", Qos::AtLeastOnce, packet_id)
            }),
        )
    };
    let mut decoder = Decoder::new(LIMITS);
    decoder.next(&mut BytesMut::from(CONNECT_311)).unwrap().unwrap();
    let mut buffer = BytesMut::from(&[like(1, b"one"), like(515, b"and two")].concat()[..]);
    decoder.next(&mut buffer).unwrap().unwrap();
    let twin = decoder.twin(&buffer).unwrap();
    assert_eq!(
        (twin.packet_id, &buffer[twin.payload.clone()]),
        (Some(id(515)), &b"and two"[..])
    );
    assert_eq!(twin.payload.end, buffer.len());
    // Packet id 0 is for the parser to refuse; a duplicate, and a length that ends within the head, are no twins.
    let mut zero = like(515, b"and two");
    zero[7..9].fill(0);
    assert_eq!(decoder.twin(&BytesMut::from(&zero[..])), None);
    let mut duplicate = like(515, b"and two");
    duplicate[0] |= 0b1000;
    assert_eq!(decoder.twin(&BytesMut::from(&duplicate[..])), None);
    for cut in 0..7 {
        let mut short = like(515, b"")[..2 + cut].to_vec();
        short[1] = cut as u8;
        assert_eq!(decoder.twin(&BytesMut::from(&short[..])), None, "{cut}");
    }
}

#[test]
fn a_plain_puback_is_read_as_any_other() {
    for (version, connect) in [(Version::V311, CONNECT_311), (Version::V5, CONNECT_5)] {
        let mut decoder = Decoder::new(LIMITS);
        decoder.next(&mut BytesMut::from(connect)).unwrap().unwrap();
        let mut buffer = BytesMut::from(&[0x40, 2, 1, 2, 0x40, 2, 0][..]);
        let packet = decoder.next(&mut buffer).unwrap();
        assert_eq!(packet, Some(Packet::Puback(Ack::new(id(0x0102), Reason::SUCCESS))));
        assert_eq!(decoder.next(&mut buffer).unwrap(), None, "{version:?}: not whole");
        buffer.extend_from_slice(&[0]);
        assert!(decoder.next(&mut buffer).is_err(), "packet id 0");
    }
}
