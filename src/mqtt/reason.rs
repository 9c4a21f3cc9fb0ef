//! Reason codes of MQTT 5.0 §2.4, and what 3.1.1 makes of them.

use std::fmt;

/// One byte that says how something ended; 0x80 and above is a failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u8);

macro_rules! reasons {
    ($($name:ident = $code:literal $text:literal,)*) => {
        impl Reason {
            $(#[doc = $text] pub const $name: Self = Self($code);)*

            /// What it means, in the specification's words.
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown reason",
                }
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00 "success",
    GRANTED_QOS_1 = 0x01 "granted QoS 1",
    GRANTED_QOS_2 = 0x02 "granted QoS 2",
    DISCONNECT_WITH_WILL = 0x04 "disconnect with will message",
    NO_MATCHING_SUBSCRIBERS = 0x10 "no matching subscribers",
    NO_SUBSCRIPTION_EXISTED = 0x11 "no subscription existed",
    UNSPECIFIED = 0x80 "unspecified error",
    MALFORMED_PACKET = 0x81 "malformed packet",
    PROTOCOL_ERROR = 0x82 "protocol error",
    IMPLEMENTATION_SPECIFIC = 0x83 "implementation specific error",
    UNSUPPORTED_VERSION = 0x84 "unsupported protocol version",
    CLIENT_ID_NOT_VALID = 0x85 "client identifier not valid",
    BAD_CREDENTIALS = 0x86 "bad user name or password",
    NOT_AUTHORIZED = 0x87 "not authorized",
    SERVER_UNAVAILABLE = 0x88 "server unavailable",
    SERVER_BUSY = 0x89 "server busy",
    BANNED = 0x8a "banned",
    SERVER_SHUTTING_DOWN = 0x8b "server shutting down",
    BAD_AUTHENTICATION_METHOD = 0x8c "bad authentication method",
    KEEP_ALIVE_TIMEOUT = 0x8d "keep alive timeout",
    SESSION_TAKEN_OVER = 0x8e "session taken over",
    TOPIC_FILTER_INVALID = 0x8f "topic filter invalid",
    TOPIC_NAME_INVALID = 0x90 "topic name invalid",
    PACKET_ID_IN_USE = 0x91 "packet identifier in use",
    PACKET_ID_NOT_FOUND = 0x92 "packet identifier not found",
    RECEIVE_MAXIMUM_EXCEEDED = 0x93 "receive maximum exceeded",
    TOPIC_ALIAS_INVALID = 0x94 "topic alias invalid",
    PACKET_TOO_LARGE = 0x95 "packet too large",
    MESSAGE_RATE_TOO_HIGH = 0x96 "message rate too high",
    QUOTA_EXCEEDED = 0x97 "quota exceeded",
    ADMINISTRATIVE_ACTION = 0x98 "administrative action",
    PAYLOAD_FORMAT_INVALID = 0x99 "payload format invalid",
}

impl Reason {
    /// True for 0x80 and above.
    pub const fn is_failure(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether PUBACK and PUBREC (`answers_publish`), or PUBREL and PUBCOMP, may say it (§3.4.2.1, §3.6.2.1).
    pub const fn is_of_ack(self, answers_publish: bool) -> bool {
        match self {
            Self::SUCCESS => true,
            Self::PACKET_ID_NOT_FOUND => !answers_publish,
            Self::NO_MATCHING_SUBSCRIBERS
            | Self::UNSPECIFIED
            | Self::IMPLEMENTATION_SPECIFIC
            | Self::NOT_AUTHORIZED
            | Self::TOPIC_NAME_INVALID
            | Self::PACKET_ID_IN_USE
            | Self::QUOTA_EXCEEDED
            | Self::PAYLOAD_FORMAT_INVALID => answers_publish,
            _ => false,
        }
    }

    /// The return code of a 3.1.1 CONNACK (3.1.1 §3.2.2.3); `None` where 3.1.1 has none and the connection is closed without one.
    pub const fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::SUCCESS => Some(0),
            Self::UNSUPPORTED_VERSION => Some(1),
            Self::CLIENT_ID_NOT_VALID => Some(2),
            Self::SERVER_UNAVAILABLE | Self::SERVER_BUSY | Self::SERVER_SHUTTING_DOWN | Self::QUOTA_EXCEEDED => Some(3),
            Self::BAD_CREDENTIALS => Some(4),
            Self::NOT_AUTHORIZED | Self::BANNED | Self::BAD_AUTHENTICATION_METHOD => Some(5),
            _ => None,
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.text())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
