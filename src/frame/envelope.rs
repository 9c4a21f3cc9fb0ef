//! The sender's part of a message: one rkyv archive that is validated once and then read in place.
//!
//! Owns what a message may say and the proof that bytes are an archive of it. Knows nothing of bodies, stores or protocols.
//! Start at [`Draft`] (or [`Fields`], where nothing is owned) and [`Envelope`]; the layout is in [`super::archive`].

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use rkyv::rancor;
use thiserror::Error;

use super::{
    address::{self, Address, AddressError},
    archive::{self, ArchivedEnvelopeV1, EnvelopeV1, Octets, Text},
    class::{Priority, Qos},
    grammar::{check_message_id, check_segmented},
    id::{AgentId, IdError, MessageId},
    limits::{ENVELOPE_BYTES_MAX, FIELD_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX},
};

/// Why bytes or a draft are not an envelope. The sender's fault; never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    #[error("the envelope has {bytes} bytes; at most {ENVELOPE_BYTES_MAX} are allowed")]
    TooLarge { bytes: usize },
    #[error("the envelope is not a well-formed archive: {0}")]
    Archive(String),
    #[error("`id` {0}")]
    MessageId(IdError),
    #[error("`from` {0}")]
    From(IdError),
    #[error("`to` {0}")]
    To(AddressError),
    #[error("`reply_to` {0}")]
    ReplyTo(AddressError),
    #[error("`priority` is {0}; it is 0 (low) to 3 (critical)")]
    Priority(u8),
    #[error("`qos` is {0}; it is 0, 1 or 2")]
    Qos(u8),
    #[error("there are {count} headers; at most {HEADERS_MAX} are allowed")]
    TooManyHeaders { count: usize },
    #[error("the headers have {bytes} bytes; at most {HEADERS_BYTES_MAX} are allowed")]
    HeadersTooLarge { bytes: usize },
    #[error("a header's name is empty or has a control character")]
    HeaderName,
    #[error("header {0:?} is reserved: names that start with `weft-` are the fabric's own")]
    ReservedHeader(String),
    #[error("`{field}` has {bytes} bytes; at most {FIELD_BYTES_MAX} are allowed")]
    FieldTooLong { field: &'static str, bytes: usize },
}

impl EnvelopeError {
    /// The field that is wrong; `message` where it is all of it.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } | Self::Archive(_) => "message",
            Self::MessageId(_) => "id",
            Self::From(_) => "from",
            Self::To(_) => "to",
            Self::ReplyTo(_) => "reply_to",
            Self::Priority(_) => "priority",
            Self::Qos(_) => "qos",
            Self::TooManyHeaders { .. } | Self::HeadersTooLarge { .. } | Self::HeaderName | Self::ReservedHeader(_) => {
                "headers"
            }
            Self::FieldTooLong { field, .. } => field,
        }
    }
}

/// How the last hop is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LastHop {
    /// Whatever the receiver is attached with.
    #[default]
    Any,
    /// This protocol where the receiver has it, else any.
    Preferred(String),
    /// This protocol or none.
    Required(String),
}

/// A message in the making: what an edge or a client fills in.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: MessageId,
    pub from: AgentId,
    pub to: Address,
    pub priority: Priority,
    pub qos: Qos,
    /// How long the message is good for, in milliseconds from when it is accepted; 0: the node's default.
    pub ttl_ms: u64,
    pub reply_to: Option<Address>,
    /// Bytes, as MQTT 5 has them; text elsewhere. At most 1,024 bytes.
    pub correlation: Vec<u8>,
    /// What kind of message it is to its receiver, such as `task_request`. At most 1,024 bytes.
    pub message_type: String,
    /// The body's media type. At most 1,024 bytes.
    pub content_type: String,
    pub last_hop: LastHop,
    /// At most 64 of them, 16 KiB together; names are not empty and do not start with `weft-`.
    pub headers: Vec<(String, String)>,
}

impl Draft {
    /// A message with every optional field unset: normal priority, at least once, the node's default time to live.
    pub fn new(id: MessageId, from: AgentId, to: Address) -> Self {
        Self {
            id,
            from,
            to,
            priority: Priority::default(),
            qos: Qos::default(),
            ttl_ms: 0,
            reply_to: None,
            correlation: Vec::new(),
            message_type: String::new(),
            content_type: String::new(),
            last_hop: LastHop::Any,
            headers: Vec::new(),
        }
    }

    /// Checks the limits and archives the draft.
    pub fn archive(&self) -> Result<Envelope, EnvelopeError> {
        let (protocol, protocol_required) = match &self.last_hop {
            LastHop::Any => ("", false),
            LastHop::Preferred(protocol) => (protocol.as_str(), false),
            LastHop::Required(protocol) => (protocol.as_str(), true),
        };
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        Fields {
            id: self.id.as_str(),
            from: self.from.as_str(),
            to: self.to.as_str(),
            reply_to: self.reply_to.as_ref().map_or("", Address::as_str),
            correlation: &self.correlation,
            message_type: &self.message_type,
            content_type: &self.content_type,
            protocol,
            protocol_required,
            headers: &headers,
            ttl_ms: self.ttl_ms,
            priority: self.priority,
            qos: self.qos,
        }
        .archive()
    }
}

/// A message's fields where an edge has them; what is unset is empty. The same limits as [`Draft`]'s.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    pub id: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub reply_to: &'a str,
    pub correlation: &'a [u8],
    pub message_type: &'a str,
    pub content_type: &'a str,
    /// The protocol of the last hop.
    pub protocol: &'a str,
    /// `protocol` is a demand, not a preference.
    pub protocol_required: bool,
    pub headers: &'a [(&'a str, &'a str)],
    pub ttl_ms: u64,
    pub priority: Priority,
    pub qos: Qos,
}

impl Fields<'_> {
    /// Checks ids, addresses and limits, and archives. No allocation of its own but for headers.
    pub fn archive(&self) -> Result<Envelope, EnvelopeError> {
        check_texts(&Texts {
            id: self.id,
            from: self.from,
            to: self.to,
            reply_to: self.reply_to,
        })?;
        check_lengths(&[
            ("correlation", self.correlation.len()),
            ("message_type", self.message_type.len()),
            ("content_type", self.content_type.len()),
            ("protocol", self.protocol.len()),
        ])?;
        check_headers(self.headers.iter().copied())?;
        let bytes = archive::write(&EnvelopeV1 {
            id: Text(self.id),
            from: Text(self.from),
            to: Text(self.to),
            reply_to: Text(self.reply_to),
            correlation: Octets(self.correlation),
            message_type: Text(self.message_type),
            content_type: Text(self.content_type),
            protocol: Text(self.protocol),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (Text(name), Text(value)))
                .collect(),
            seal_suite: 0,
            seal_key_id: Text(""),
            seal_key: Octets(&[]),
            seal_signature: Octets(&[]),
            producer: 0,
            producer_seq: 0,
            ttl_ms: self.ttl_ms,
            priority: self.priority as u8,
            qos: self.qos as u8,
            protocol_required: self.protocol_required.into(),
        })
        .map_err(|error| EnvelopeError::Archive(error.to_string()))?;
        match bytes.len() {
            bytes if bytes > ENVELOPE_BYTES_MAX => Err(EnvelopeError::TooLarge { bytes }),
            _ => Ok(Envelope(bytes)),
        }
    }
}

/// The sender's part of a message in its archived form: bytes that were validated, read in place. A clone is a reference count.
#[derive(Clone, Debug)]
pub struct Envelope(Bytes);

impl Envelope {
    /// Validates bytes from outside the process: the archive's form, every id and address, every limit.
    pub fn validate(bytes: Bytes) -> Result<Self, EnvelopeError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes: bytes.len() });
        }
        let archived = rkyv::access::<ArchivedEnvelopeV1, rancor::Error>(&bytes)
            .map_err(|error| EnvelopeError::Archive(error.to_string()))?;
        check_fields(archived)?;
        Ok(Self(bytes))
    }

    #[cfg(feature = "server")]
    /// Takes bytes that this process validated before and that a checksum covers since: a store's own records.
    /// The archive's form is still checked (a checksum proves the bytes, not who wrote them); the fields' grammar is not.
    pub(crate) fn from_stored(bytes: Bytes) -> Result<Self, EnvelopeError> {
        match rkyv::access::<ArchivedEnvelopeV1, rancor::Error>(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(error) => Err(EnvelopeError::Archive(error.to_string())),
        }
    }

    /// The same message with another reply address, archived anew.
    pub fn replying_to(&self, address: &Address) -> Result<Self, EnvelopeError> {
        let headers: Vec<_> = self.headers().collect();
        Fields {
            reply_to: address.as_str(),
            ..self.fields(&headers)
        }
        .archive()
    }

    fn fields<'a>(&'a self, headers: &'a [(&'a str, &'a str)]) -> Fields<'a> {
        Fields {
            id: self.id(),
            from: self.from(),
            to: self.to(),
            reply_to: self.reply_to().unwrap_or_default(),
            correlation: self.correlation(),
            message_type: self.message_type(),
            content_type: self.content_type(),
            protocol: self.protocol(),
            protocol_required: self.is_protocol_required(),
            headers,
            ttl_ms: self.ttl_ms(),
            priority: self.priority(),
            qos: self.qos(),
        }
    }

    /// The archive's bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Where the id's text stands in the archive.
    pub(super) fn id_span(&self) -> Range<usize> {
        let id = self.id();
        let start = id.as_ptr() as usize - self.0.as_ptr() as usize;
        start..start + id.len()
    }

    /// True where nothing but the text of the ids differs, which are of one length.
    pub(super) fn is_twin_of(&self, other: &Self, id: &Range<usize>) -> bool {
        let (mine, others) = (&self.0[..], &other.0[..]);
        mine.len() == others.len()
            && mine[..id.start] == others[..id.start]
            && mine[id.end..] == others[id.end..]
            && self.id_span() == *id
    }

    /// Takes a copy of a validated archive in which the id's text was replaced by another of the same length that is within
    /// the grammar of message ids. Texts of an archive never overlap (rkyv refuses that), so all others are as they were.
    pub(super) const fn from_twin(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The same envelope in a buffer of its own, so that it does not pin a larger one.
    pub fn compact(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The same envelope at the end of a buffer that it shares with others.
    pub fn compact_into(&self, buffer: &mut BytesMut) -> Self {
        buffer.extend_from_slice(&self.0);
        Self(buffer.split().freeze())
    }

    #[allow(unsafe_code)]
    fn get(&self) -> &ArchivedEnvelopeV1 {
        // SAFETY: either `archive::write` serialized exactly these bytes from such a value, or `rkyv::access` went over exactly
        // these bytes, which checks positions, lengths and UTF-8 of the whole archive, or, `from_twin`, over bytes that differ from
        // them only in the text of the id, ASCII both times and of one length; `Bytes` never changes afterwards, and the archive has
        // alignment 1 (asserted in `archive`).
        unsafe { rkyv::access_unchecked::<ArchivedEnvelopeV1>(&self.0) }
    }

    pub fn id(&self) -> &str {
        &self.get().id
    }

    pub fn from(&self) -> &str {
        &self.get().from
    }

    /// The address as text; see [`Envelope::address`].
    pub fn to(&self) -> &str {
        &self.get().to
    }

    /// The address, built anew: one allocation.
    pub fn address(&self) -> Address {
        Address::from_trusted(self.to())
    }

    pub fn reply_to(&self) -> Option<&str> {
        Some(self.get().reply_to.as_str()).filter(|text| !text.is_empty())
    }

    pub fn correlation(&self) -> &[u8] {
        &self.get().correlation
    }

    pub fn message_type(&self) -> &str {
        &self.get().message_type
    }

    pub fn content_type(&self) -> &str {
        &self.get().content_type
    }

    /// The protocol that the sender names for the last hop; empty where it named none.
    pub fn protocol(&self) -> &str {
        &self.get().protocol
    }

    /// True where [`Envelope::protocol`] is a demand.
    pub fn is_protocol_required(&self) -> bool {
        self.get().protocol_required == 1
    }

    /// Names and values in the sender's order; a name may stand more than once.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.get().headers.iter().map(|pair| (pair.0.as_str(), pair.1.as_str()))
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(given, _)| *given == name).map(|(_, value)| value)
    }

    /// Milliseconds from when the message is accepted; 0: the node's default.
    pub fn ttl_ms(&self) -> u64 {
        self.get().ttl_ms.to_native()
    }

    pub fn priority(&self) -> Priority {
        Priority::from_u8(self.get().priority).unwrap_or_default()
    }

    pub fn qos(&self) -> Qos {
        Qos::from_u8(self.get().qos).unwrap_or_default()
    }
}

fn check_fields(envelope: &ArchivedEnvelopeV1) -> Result<(), EnvelopeError> {
    check_texts(&Texts {
        id: &envelope.id,
        from: &envelope.from,
        to: &envelope.to,
        reply_to: &envelope.reply_to,
    })?;
    Priority::from_u8(envelope.priority).ok_or(EnvelopeError::Priority(envelope.priority))?;
    Qos::from_u8(envelope.qos).ok_or(EnvelopeError::Qos(envelope.qos))?;
    check_lengths(&[
        ("correlation", envelope.correlation.len()),
        ("message_type", envelope.message_type.len()),
        ("content_type", envelope.content_type.len()),
        ("protocol", envelope.protocol.len()),
        ("seal_key_id", envelope.seal_key_id.len()),
        ("seal_key", envelope.seal_key.len()),
        ("seal_signature", envelope.seal_signature.len()),
    ])?;
    check_headers(envelope.headers.iter().map(|pair| (pair.0.as_str(), pair.1.as_str())))
}

/// The texts that have a grammar.
struct Texts<'a> {
    id: &'a str,
    from: &'a str,
    to: &'a str,
    reply_to: &'a str,
}

fn check_texts(texts: &Texts<'_>) -> Result<(), EnvelopeError> {
    check_message_id(texts.id).map_err(EnvelopeError::MessageId)?;
    check_segmented(texts.from).map_err(EnvelopeError::From)?;
    address::check(texts.to).map_err(EnvelopeError::To)?;
    if !texts.reply_to.is_empty() {
        address::check(texts.reply_to).map_err(EnvelopeError::ReplyTo)?;
    }
    Ok(())
}

fn check_lengths(fields: &[(&'static str, usize)]) -> Result<(), EnvelopeError> {
    match fields.iter().find(|(_, bytes)| *bytes > FIELD_BYTES_MAX) {
        Some(&(field, bytes)) => Err(EnvelopeError::FieldTooLong { field, bytes }),
        None => Ok(()),
    }
}

fn check_headers<'a>(headers: impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone) -> Result<(), EnvelopeError> {
    if headers.len() > HEADERS_MAX {
        return Err(EnvelopeError::TooManyHeaders { count: headers.len() });
    }
    let bytes = headers.clone().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > HEADERS_BYTES_MAX {
        return Err(EnvelopeError::HeadersTooLarge { bytes });
    }
    for (name, _) in headers {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(EnvelopeError::HeaderName);
        }
        if name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("weft-")) {
            return Err(EnvelopeError::ReservedHeader(name.into()));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn draft() -> Draft {
        Draft::new(
            MessageId::new("msg_1").unwrap(),
            AgentId::new("alice").unwrap(),
            "agent:bob".parse().unwrap(),
        )
    }

    #[test]
    fn a_draft_reads_back_as_written() {
        let mut draft = draft();
        draft.priority = Priority::High;
        draft.qos = Qos::ExactlyOnce;
        draft.ttl_ms = 5000;
        draft.reply_to = Some("agent:alice#r1".parse().unwrap());
        draft.correlation = vec![0, 255, 7];
        draft.message_type = "task_request".into();
        draft.content_type = "application/json".into();
        draft.last_hop = LastHop::Required("websocket".into());
        draft.headers = vec![("k".into(), "v".into()), ("k".into(), "w".into())];
        let envelope = draft.archive().unwrap();
        assert_eq!(
            (envelope.id(), envelope.from(), envelope.to()),
            ("msg_1", "alice", "agent:bob")
        );
        assert_eq!(
            (envelope.priority(), envelope.qos(), envelope.ttl_ms()),
            (Priority::High, Qos::ExactlyOnce, 5000)
        );
        assert_eq!(envelope.reply_to(), Some("agent:alice#r1"));
        assert_eq!(envelope.correlation(), [0, 255, 7]);
        assert_eq!(
            (envelope.message_type(), envelope.content_type()),
            ("task_request", "application/json")
        );
        assert_eq!(
            (envelope.protocol(), envelope.is_protocol_required()),
            ("websocket", true)
        );
        assert_eq!(envelope.headers().collect::<Vec<_>>(), [("k", "v"), ("k", "w")]);
        assert_eq!(envelope.header("k"), Some("v"));
    }

    #[test]
    fn another_reply_address_changes_nothing_else() {
        let mut draft = draft();
        draft.reply_to = Some("agent:alice#r1".parse().unwrap());
        draft.last_hop = LastHop::Required("grpc".into());
        draft.headers = vec![("k".into(), "v".into())];
        draft.correlation = vec![7];
        let before = draft.archive().unwrap();
        let there = "agent:alice#r2".parse().unwrap();
        assert_eq!(before.replying_to(&there).unwrap().reply_to(), Some("agent:alice#r2"));
        let back = before
            .replying_to(&there)
            .unwrap()
            .replying_to(draft.reply_to.as_ref().unwrap());
        assert_eq!(back.unwrap().as_bytes(), before.as_bytes());
    }

    #[test]
    fn drafts_over_a_limit_are_refused_by_name() {
        let with = |change: fn(&mut Draft)| {
            let mut draft = draft();
            change(&mut draft);
            draft.archive().map(|_| ()).unwrap_err()
        };
        assert_eq!(
            with(|d| d.headers = vec![("k".into(), "v".into()); 65]),
            EnvelopeError::TooManyHeaders { count: 65 }
        );
        assert_eq!(
            with(|d| d.headers = vec![("k".into(), "v".repeat(16 * 1024))]),
            EnvelopeError::HeadersTooLarge { bytes: 16 * 1024 + 1 }
        );
        assert_eq!(
            with(|d| d.headers = vec![("Weft-From".into(), "v".into())]),
            EnvelopeError::ReservedHeader("Weft-From".into())
        );
        assert_eq!(
            with(|d| d.headers = vec![(String::new(), "v".into())]),
            EnvelopeError::HeaderName
        );
        assert_eq!(
            with(|d| d.content_type = "x".repeat(1025)),
            EnvelopeError::FieldTooLong {
                field: "content_type",
                bytes: 1025
            }
        );
    }

    #[test]
    fn foreign_archives_with_bad_fields_are_refused() {
        let raw = |change: fn(&mut EnvelopeV1<'_>)| {
            let mut envelope = EnvelopeV1 {
                id: Text("m"),
                from: Text("a"),
                to: Text("agent:b"),
                reply_to: Text(""),
                correlation: Octets(&[]),
                message_type: Text(""),
                content_type: Text(""),
                protocol: Text(""),
                headers: vec![],
                seal_suite: 0,
                seal_key_id: Text(""),
                seal_key: Octets(&[]),
                seal_signature: Octets(&[]),
                producer: 0,
                producer_seq: 0,
                ttl_ms: 0,
                priority: 1,
                qos: 1,
                protocol_required: 0,
            };
            change(&mut envelope);
            Envelope::validate(archive::write(&envelope).unwrap()).map(|_| ())
        };
        assert_eq!(raw(|_| ()), Ok(()));
        assert_eq!(raw(|e| e.priority = 4), Err(EnvelopeError::Priority(4)));
        assert_eq!(raw(|e| e.qos = 3), Err(EnvelopeError::Qos(3)));
        assert_eq!(
            raw(|e| e.id = Text("a b")),
            Err(EnvelopeError::MessageId(IdError::MessageCharacter(' ')))
        );
        assert_eq!(raw(|e| e.from = Text("")), Err(EnvelopeError::From(IdError::Empty)));
        assert_eq!(raw(|e| e.to = Text("x")), Err(EnvelopeError::To(AddressError::Kind)));
        assert_eq!(
            raw(|e| e.reply_to = Text("x")),
            Err(EnvelopeError::ReplyTo(AddressError::Kind))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Envelope::validate(Bytes::from(bytes));
        }

        #[test]
        fn a_flipped_byte_never_panics_when_read(at in 0usize..4096, value in any::<u8>()) {
            let mut draft = draft();
            draft.headers = vec![("name".into(), "a value longer than eight bytes".into())];
            let mut bytes = draft.archive().unwrap().as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(envelope) = Envelope::validate(Bytes::from(bytes)) {
                let _ = (envelope.id(), envelope.address(), envelope.headers().count(), envelope.correlation().len());
            }
        }
    }
}
