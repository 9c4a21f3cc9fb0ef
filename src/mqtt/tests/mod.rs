//! The codec against bytes, and the machine against the specification: tests bear the numbers of the statements that they prove.

mod codec;
mod connecting;
mod crashes;
mod passing;
mod receiving;
mod sending;
mod world;
