//! The node that ships: the library with the workers of `workmesh-workers`.

use workmesh_workers as _;

fn main() -> std::process::ExitCode {
    workmesh_node::main()
}
