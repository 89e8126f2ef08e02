//! The binary `pennon`. Everything is in the library; see `pennon_node::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pennon_node::cli::main()
}
