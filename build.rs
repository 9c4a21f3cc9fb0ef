//! Compiles `proto/weft/v1` into the messages and services of `weft::rpc`, with protox: no system protoc is needed.
//!
//! Also writes the file descriptor set that gRPC reflection serves.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const ROOT: &str = "proto";
const FILES: [&str; 4] = [
    "weft/v1/message.proto",
    "weft/v1/messaging.proto",
    "weft/v1/registry.proto",
    "weft/v1/groups.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ROOT}");
    if env::var_os("CARGO_FEATURE_RPC").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, [ROOT])?;
    fs::write(out.join("weft_v1_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Bodies and correlations as slices of the decoded buffer.
        .bytes(".")
        // Encoded straight from a frame; see src/rpc/delivery.rs.
        .extern_path(".weft.v1.Delivery", "crate::rpc::Delivery")
        // As above, and for runs encoded as a whole.
        .extern_path(".weft.v1.Deliveries", "crate::rpc::Deliveries")
        // Kept as it came in until it is archived; see src/rpc/send.rs.
        .extern_path(".weft.v1.SendFrame", "crate::rpc::SendFrame")
        // Buffers as large as their messages; see src/rpc/codec.rs.
        .codec_path("crate::rpc::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
