//! Bytes of any length that repeat nowhere, cheap to make and to compare; `test:bytes` of the tests' own node sends the
//! same.

use std::io::{self, Read};

const BLOCK: usize = 64 * 1024;

/// The first `length` bytes of the pattern, as a reader.
#[derive(Debug)]
pub struct Pattern {
    left: u64,
    next: u64,
    block: Box<[u8]>,
    at: usize,
}

impl Pattern {
    /// A reader of `length` bytes.
    pub fn new(length: u64) -> Self {
        Self {
            left: length,
            next: 0,
            block: my_workers::block(),
            at: BLOCK,
        }
    }
}

impl Read for Pattern {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == BLOCK {
            my_workers::number(&mut self.block, self.next);
            self.next += 1;
            self.at = 0;
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = into.len().min(BLOCK - self.at).min(left);
        into[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        self.left -= count as u64;
        Ok(count)
    }
}
