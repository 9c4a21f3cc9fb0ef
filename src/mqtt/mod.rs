//! L2: MQTT 3.1.1 and 5 without I/O and without a clock: packets, names, and one session as a pure machine for both versions.
//!
//! Owns what bytes are a packet and what a packet does: handshakes, windows, aliases, subscriptions, wills. Must never know sockets,
//! stores or the router: decoded packets, outcomes and `now` come in; packets, actions for the fabric and what must be durable come out.
//! Numbers in brackets, such as [MQTT-3.1.2-24], are normative statements of MQTT 5.0; those of 3.1.1 are marked so.
//! Start at [`Session`]; bytes become packets in [`Decoder`] and the other way in [`Encoder`].

mod aliases;
mod decode;
mod encode;
mod mapping;
mod names;
mod packet;
mod parse;
mod reason;
mod session;
mod subscriptions;

#[cfg(test)]
mod tests;

pub use decode::{Decoder, Limits, Malformed, Twin};
pub use encode::{Encoder, TooLarge};
pub use mapping::{Sender, to_frame, to_publish};
pub use names::{INBOX_FILTER, NameError, agent_of_client, client_of_agent, is_nodes_own, queue_token};
pub use packet::{
    Ack, Connack, Connect, Disconnect, Filter, Packet, PacketId, Publish, PublishProperties, RetainHandling, Subscribe,
    Unsubscribe, UserProperties, Version, Will,
};
pub use reason::Reason;
pub use session::{
    Action, Attach, Attached, Change, Config, Delivery, End, Goodbye, Key, Outcome, Place, Saved, SavedDebt,
    SavedStage, SavedWill, Session, SessionFate, Source, Ticket, Wanted,
};
pub use subscriptions::{Subscription, Subscriptions};
