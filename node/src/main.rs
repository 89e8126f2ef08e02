//! The binary `pennon`. Everything is in the library; see `pennon_node::cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pennon_node::cli::main()
}
