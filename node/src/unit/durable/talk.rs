//! A unit's conversation with an executor, as the unit's task has it: one future, polled where the machine is, and what the two hand
//! each other. Neither wakes the other, because no one polls the one without the other. In a batch it is the batch's task that listens, and
//! wakes the unit's.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use workmesh_proto::unit::durable::OriginInput;
use workmesh_proto::wire::durable::Position;

use crate::unit::placement::Placed;

/// What the executor said that may wait for the machine; what comes beyond it is left in the stream.
const MAX_WORDS: usize = 16;

/// See the module. Dropped, it breaks the conversation off.
pub(super) struct Talk {
    pub(super) conversation: u64,
    line: Arc<Line>,
    /// Until the executor's last word, if the unit converses alone.
    asking: Option<BoxFuture<'static, OriginInput>>,
    _placed: Placed,
}

/// What a conversation and its unit's machine hand each other.
#[derive(Default)]
pub(super) struct Line(Mutex<Ends>);

#[derive(Default)]
struct Ends {
    words: VecDeque<OriginInput>,
    /// What is on the disk, if that is to be acknowledged.
    stored: Option<Position>,
}

impl Line {
    /// Hands on what the executor has said, once there is room for it. Dropped before, it is not handed on.
    pub(super) async fn say(&self, word: OriginInput) {
        let mut word = Some(word);
        poll_fn(|_| {
            let words = &mut self.0.lock().words;
            if words.len() >= MAX_WORDS {
                return Poll::Pending;
            }
            words.extend(word.take());
            Poll::Ready(())
        })
        .await;
    }

    /// Hands on what the executor has said, room or not: the caller bounds how much that is.
    pub(super) fn say_now(&self, word: OriginInput) {
        self.0.lock().words.push_back(word);
    }

    /// What the executor has said next, if that is here.
    pub(super) fn next(&self) -> Option<OriginInput> {
        self.0.lock().words.pop_front()
    }

    /// Waits for a position that is to be acknowledged.
    pub(super) async fn stored(&self) -> Position {
        poll_fn(|_| self.0.lock().stored.take().map_or(Poll::Pending, Poll::Ready)).await
    }
}

impl Talk {
    /// A conversation that begins when it is first polled.
    pub(super) fn new(
        conversation: u64,
        line: Arc<Line>,
        asking: impl Future<Output = OriginInput> + Send + 'static,
        placed: Placed,
    ) -> Self {
        Self {
            conversation,
            line,
            asking: Some(Box::pin(asking)),
            _placed: placed,
        }
    }

    /// A conversation that the unit shares with others: what the executor says comes on `line`, and wakes the unit's task.
    pub(super) fn in_batch(conversation: u64, line: Arc<Line>, placed: Placed) -> Self {
        Self {
            conversation,
            line,
            asking: None,
            _placed: placed,
        }
    }

    /// The executor is to hear that so much is on the disk.
    pub(super) fn acknowledge(&self, position: Position) {
        self.line.0.lock().stored = Some(position);
    }

    /// What the executor has said, without a look at the stream.
    pub(super) fn next_ready(&self) -> Option<OriginInput> {
        self.line.next()
    }

    /// Goes on with the conversation; answers with the next of what the executor has said, if that is `wanted`.
    pub(super) fn poll_word(&mut self, cx: &mut Context<'_>, wanted: bool) -> Poll<OriginInput> {
        if wanted && let Some(word) = self.next_ready() {
            return Poll::Ready(word);
        }
        if let Some(asking) = &mut self.asking
            && let Poll::Ready(last) = Pin::new(asking).poll(cx)
        {
            self.asking = None;
            self.line.0.lock().words.push_back(last);
        }
        if !wanted {
            return Poll::Pending;
        }
        self.next_ready().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use workmesh_proto::NodeId;

    use super::*;
    use crate::unit::placement::Outstanding;

    fn talk<F: Future<Output = OriginInput> + Send + 'static>(asking: impl FnOnce(Arc<Line>) -> F) -> Talk {
        let line = Arc::<Line>::default();
        let outstanding = Arc::<Outstanding>::default();
        let placed = outstanding.place(&NodeId::parse("e").unwrap());
        Talk::new(1, line.clone(), asking(line), placed)
    }

    fn poll(talk: &mut Talk, wanted: bool) -> Option<OriginInput> {
        let mut cx = Context::from_waker(Waker::noop());
        match talk.poll_word(&mut cx, wanted) {
            Poll::Ready(word) => Some(word),
            Poll::Pending => None,
        }
    }

    #[test]
    fn words_that_are_not_wanted_wait_up_to_a_bound() {
        let mut talk = talk(async |line: Arc<Line>| {
            for at in 0..MAX_WORDS as u64 + 2 {
                line.say(OriginInput::Accepted(at)).await;
            }
            OriginInput::Started(99)
        });
        assert_eq!(poll(&mut talk, false), None);
        assert_eq!(poll(&mut talk, false), None);
        assert_eq!(talk.line.0.lock().words.len(), MAX_WORDS);
        for at in 0..MAX_WORDS as u64 + 2 {
            assert_eq!(poll(&mut talk, true), Some(OriginInput::Accepted(at)));
        }
        assert_eq!(poll(&mut talk, true), Some(OriginInput::Started(99)));
        assert_eq!(poll(&mut talk, true), None, "nothing follows the last word");
    }

    #[test]
    fn the_latest_position_is_acknowledged_when_the_talk_goes_on() {
        let mut talk = talk(async |line: Arc<Line>| {
            loop {
                let position = line.stored().await;
                line.say(OriginInput::Accepted(position.bytes)).await;
            }
        });
        assert_eq!(poll(&mut talk, true), None);
        for bytes in [1, 2] {
            talk.acknowledge(Position { responses: 0, bytes });
        }
        assert_eq!(poll(&mut talk, true), Some(OriginInput::Accepted(2)));
        assert_eq!(poll(&mut talk, true), None);
    }
}
