use worker_api::{Bytes, Result, worker};

struct Service;

impl Service {
    #[worker("a:a")]
    fn method(&self, _: Bytes) -> Result<()> {
        Ok(())
    }
}

fn main() {}
