//! The node, with our own workers.

use my_workers as _;
use workmesh_workers as _;

fn main() -> std::process::ExitCode {
    workmesh_node::main()
}
