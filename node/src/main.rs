//! The `node` binary: the library's command line with the workers that ship.

use std::process::ExitCode;

use workmesh_workers as _;

fn main() -> ExitCode {
    workmesh_node::main()
}
