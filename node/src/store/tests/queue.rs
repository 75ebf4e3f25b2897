//! The queue of the thread that writes: how much is taken at a time, and what becomes of a key that failed.

use std::time::Instant;

use super::super::queue::Turn;
use super::*;

/// Puts a record of so many bytes in the queue.
fn push(queue: &Arc<Queue>, number: u128, length: usize) -> Pending {
    let entries = vec![Entry::Record(bytes(0, length))];
    queue.push(key(number), Work::Append(entries, Sync::Written), None)
}

/// The lengths of what is taken next.
fn take(queue: &Queue, max_bytes: usize) -> Vec<usize> {
    match queue.take(Some(Instant::now()), max_bytes) {
        Turn::Items(items) => items.iter().map(|item| item.work.bytes()).collect(),
        Turn::Idle => Vec::new(),
        Turn::Closing => panic!("nobody has closed the queue"),
    }
}

#[test]
fn as_much_is_taken_as_has_room_and_never_nothing() {
    let queue = Arc::<Queue>::default();
    let _pending: Vec<_> = [40, 60, 1, 200, 10]
        .iter()
        .map(|length| push(&queue, 1, *length))
        .collect();
    assert_eq!(take(&queue, 100), [40, 60]);
    assert_eq!(take(&queue, 100), [1]);
    assert_eq!(take(&queue, 100), [200]);
    assert_eq!(take(&queue, 100), [10]);
    assert!(take(&queue, 100).is_empty());
}

#[test]
fn what_was_taken_or_has_failed_takes_no_room_any_more() {
    let queue = Arc::<Queue>::default();
    let first = push(&queue, 1, 60);
    let Turn::Items(items) = queue.take(Some(Instant::now()), 100) else {
        panic!("nothing waits");
    };
    let (second, _third) = (push(&queue, 1, 60), push(&queue, 2, 60));
    assert_eq!(queue.fail(items, &StoreError::Full), 2);
    let _fourth = push(&queue, 3, 40);
    assert_eq!(take(&queue, 100), [60, 40]);
    drop((first, second));
}

#[test]
fn a_removal_lets_its_key_go_on() {
    let queue = Arc::<Queue>::default();
    queue.fail_next(key(1), &StoreError::Full);
    queue.fail_next(key(2), &StoreError::Full);
    queue.forgive(&[key(1)]);
    let (_one, _two) = (push(&queue, 1, 7), push(&queue, 2, 8));
    assert_eq!(take(&queue, 100), [7]);
}
