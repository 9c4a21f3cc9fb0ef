//! The envelope's archived layout (version 1, frozen: a change is a new type under a new frame version) and its writer.
//!
//! What is archived is borrowed from wherever an edge has it, so that archiving copies each text once, into the archive.
//! Knows no limits and no grammar; [`super::envelope`] checks before and after. Start at [`write()`].

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use rkyv::{
    Archive, Place, Portable, Serialize, SerializeUnsized,
    bytecheck::CheckBytes,
    primitive::ArchivedU64,
    rancor::{self, Fallible, Source},
    ser::{Allocator, Writer, allocator::Arena},
    string::{ArchivedString, StringResolver},
    tuple::ArchivedTuple2,
    util::AlignedVec,
    vec::{ArchivedVec, VecResolver},
};

/// What a sender says of its message, in place. Text fields that are unset are empty.
#[derive(Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct ArchivedEnvelopeV1 {
    pub id: ArchivedString,
    pub from: ArchivedString,
    pub to: ArchivedString,
    pub reply_to: ArchivedString,
    pub correlation: ArchivedVec<u8>,
    pub message_type: ArchivedString,
    pub content_type: ArchivedString,
    pub protocol: ArchivedString,
    pub headers: ArchivedVec<ArchivedTuple2<ArchivedString, ArchivedString>>,
    /// End-to-end sealing: suite, key id, encapsulated key, signature. Suite 0: in the clear.
    pub seal_suite: u8,
    pub seal_key_id: ArchivedString,
    pub seal_key: ArchivedVec<u8>,
    pub seal_signature: ArchivedVec<u8>,
    /// Reserved: a native client's producer number and sequence, by which a node may one day tell its repeats without an entry for each
    /// message. Always 0 and read by nobody; what is sent again is told by (sender, message id), on every protocol.
    pub producer: ArchivedU64,
    pub producer_seq: ArchivedU64,
    /// How long the message is good for, in milliseconds from when it is accepted; 0: the node's default.
    pub ttl_ms: ArchivedU64,
    pub priority: u8,
    pub qos: u8,
    /// 1 where `protocol` is a demand, not a preference.
    pub protocol_required: u8,
}

const _: () = assert!(
    align_of::<ArchivedEnvelopeV1>() == 1,
    "read in place at any offset of a network buffer"
);

/// The same, to be archived.
#[derive(Archive, Serialize)]
#[rkyv(as = ArchivedEnvelopeV1, resolver = EnvelopeV1Resolver)]
#[rkyv(serialize_bounds(__S: Writer + Allocator, __S::Error: Source))]
pub(super) struct EnvelopeV1<'a> {
    #[rkyv(omit_bounds)]
    pub id: Text<'a>,
    #[rkyv(omit_bounds)]
    pub from: Text<'a>,
    #[rkyv(omit_bounds)]
    pub to: Text<'a>,
    #[rkyv(omit_bounds)]
    pub reply_to: Text<'a>,
    #[rkyv(omit_bounds)]
    pub correlation: Octets<'a>,
    #[rkyv(omit_bounds)]
    pub message_type: Text<'a>,
    #[rkyv(omit_bounds)]
    pub content_type: Text<'a>,
    #[rkyv(omit_bounds)]
    pub protocol: Text<'a>,
    #[rkyv(omit_bounds)]
    pub headers: Vec<(Text<'a>, Text<'a>)>,
    pub seal_suite: u8,
    #[rkyv(omit_bounds)]
    pub seal_key_id: Text<'a>,
    #[rkyv(omit_bounds)]
    pub seal_key: Octets<'a>,
    #[rkyv(omit_bounds)]
    pub seal_signature: Octets<'a>,
    pub producer: u64,
    pub producer_seq: u64,
    pub ttl_ms: u64,
    pub priority: u8,
    pub qos: u8,
    pub protocol_required: u8,
}

/// A borrowed text that is archived as a `String` would be.
#[derive(Clone, Copy)]
pub(super) struct Text<'a>(pub &'a str);

impl Archive for Text<'_> {
    type Archived = ArchivedString;
    type Resolver = StringResolver;

    fn resolve(&self, resolver: StringResolver, out: Place<ArchivedString>) {
        ArchivedString::resolve_from_str(self.0, resolver, out);
    }
}

impl<S: Fallible + ?Sized> Serialize<S> for Text<'_>
where
    str: SerializeUnsized<S>,
    S::Error: Source,
{
    fn serialize(&self, serializer: &mut S) -> Result<StringResolver, S::Error> {
        ArchivedString::serialize_from_str(self.0, serializer)
    }
}

/// Borrowed bytes that are archived as a `Vec<u8>` would be.
#[derive(Clone, Copy)]
pub(super) struct Octets<'a>(pub &'a [u8]);

impl Archive for Octets<'_> {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_slice(self.0, resolver, out);
    }
}

impl<S: Fallible + Allocator + Writer + ?Sized> Serialize<S> for Octets<'_> {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(self.0, serializer)
    }
}

/// Bytes of the buffers that archives are carved from, one buffer for about twenty plain envelopes: an allocation each would
/// cost more than the copy. Small, because an envelope that waits pins the whole buffer (what waits long is compacted).
const CHUNK_BYTES: usize = 4096;

/// A thread's memory for archiving.
struct Scratch {
    arena: Arena,
    written: AlignedVec<1>,
    chunk: BytesMut,
}

thread_local! {
    /// 34 ns an envelope with it, 93 without.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        arena: Arena::new(),
        written: AlignedVec::new(),
        chunk: BytesMut::new(),
    });
}

/// Archives. The bytes are a well-formed archive by construction; what the texts say is not checked here.
pub(super) fn write(envelope: &EnvelopeV1<'_>) -> Result<Bytes, rancor::Error> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = std::mem::take(&mut scratch.written);
        buffer.clear();
        let buffer = rkyv::api::high::to_bytes_in_with_alloc(envelope, buffer, scratch.arena.acquire())?;
        if scratch.chunk.capacity() < buffer.len() {
            scratch.chunk = BytesMut::with_capacity(CHUNK_BYTES.max(buffer.len()));
        }
        scratch.chunk.extend_from_slice(&buffer);
        let bytes = scratch.chunk.split().freeze();
        if buffer.capacity() <= CHUNK_BYTES {
            scratch.written = buffer;
        }
        Ok(bytes)
    })
}
