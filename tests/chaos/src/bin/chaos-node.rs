//! The node that a run starts, and its command line: the node that ships, with workers that record their runs.

use my_workers as _;
use workmesh_workers as _;

fn main() -> std::process::ExitCode {
    workmesh_node::main()
}
