//! The `weft` binary: everything is in the library; see `weft::cli` for the commands and `weft::node` for the node.

use std::process::ExitCode;

/// Fewer page faults and no lock between threads on a path that allocates a buffer a message.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weft::cli::main()
}
