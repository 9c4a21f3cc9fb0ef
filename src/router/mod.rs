//! L3: the door, the directory, the workers and the ports.

pub mod port;
