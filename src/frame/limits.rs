//! Limits of the frame format itself. Limits that an operator may change are in each module's `Config`.

/// Longest agent, group or capability id, in bytes.
pub const ID_BYTES_MAX: usize = 255;
/// Longest segment of an id, in bytes.
pub const ID_SEGMENT_BYTES_MAX: usize = 64;
/// Longest message id, in bytes.
pub const MESSAGE_ID_BYTES_MAX: usize = 128;
/// Longest token of a session-bound address (`agent:ID#TOKEN`), in bytes.
pub const TOKEN_BYTES_MAX: usize = 64;
/// Longest topic name or filter, in bytes: MQTT's own bound, as its texts have two bytes of length (MQTT 5.0 §1.5.4). Whatever holds
/// names or filters is therefore bounded by their bytes too.
pub const TOPIC_BYTES_MAX: usize = 65_535;
/// Deepest topic, in levels; bounds the recursion of a match. MQTT knows no bound; suites that try depth stop a little above 200.
pub const TOPIC_LEVELS_MAX: usize = 256;
/// Longest address, in bytes: a topic's, or a shared filter's, behind its prefix. Two bytes of length do not hold it.
pub const ADDRESS_BYTES_MAX: usize = "topic:".len() + TOPIC_BYTES_MAX;
/// All header names and values of a message together, in bytes.
pub const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Headers of a message.
pub const HEADERS_MAX: usize = 64;
/// Longest correlation, content type, message type, protocol or key id, in bytes.
pub const FIELD_BYTES_MAX: usize = 1024;
/// Largest archived envelope, in bytes: two topics (to, and to answer to), full headers, every other field at its longest, and archive
/// overhead.
pub const ENVELOPE_BYTES_MAX: usize = 2 * ADDRESS_BYTES_MAX + 32 * 1024;
/// Envelopes that a run may stand for, in bytes, each counted whole: a run says the envelope once, and who makes single messages of it
/// copies it for each.
pub const RUN_ENVELOPES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest body that the format carries, in bytes; a node's own limit is lower (1 MiB by default).
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most frames in one batch.
pub const BATCH_FRAMES_MAX: usize = 65_536;
/// Largest batch once inflated, in bytes: one largest frame always fits.
pub const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Shards of a cluster, fixed for its life: the hash of an address is taken modulo this.
pub const SHARDS: u16 = 1024;
