//! The JSON shapes that the HTTP and the WebSocket edge share: the send request in both forms, its answer, a delivered
//! message, problem documents and durations.
//!
//! Requests are read field by field ([`Object`]), not derived: every error names its place by JSON pointer, several are
//! reported at once, duplicate keys are refused, and bodies stay the bytes that came. Must never know a route or a socket.
//! Start at [`SendRequest`] and [`Problem`].

mod codes;
mod delivered;
mod duration;
mod problem;
mod read;
mod receipt;
mod send;

pub use codes::{CodeEntry, EdgeError, catalogue, errors_markdown, status_of};
pub use delivered::{delivered_message, delivered_message_into, kept_message_into, reply_message};
pub use duration::{Duration, DurationError};
pub use problem::{FIELD_ERRORS_MAX, FieldError, Place, Problem};
pub use read::{Array, Errors, Field, Object, read_object};
pub use receipt::{Receipt, receipt};
pub use send::{SendDefaults, SendRequest, delivery_ids, is_protocol_name, protocol_name};
