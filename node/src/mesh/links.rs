//! The tasks of one link: frames of the control stream to and from the driver.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use workmesh_proto::LinkId;
use workmesh_proto::wire::frame::Frame;

use super::driver::Input;
use crate::link::{FrameReceiver, FrameSender, LinkHandle};

/// Frames that may wait for a slow neighbour. When there are more, the link is closed and dialled anew: the database
/// is then sent afresh.
pub(super) const MAX_QUEUED_FRAMES: usize = 16 * 1024;
/// How long the last frames of a link may take to arrive before it is closed.
const LAST_FRAMES: Duration = Duration::from_millis(300);
/// How long after the end of its control stream a peer may take to close the link.
const CLOSE_AFTER_STREAM: Duration = Duration::from_secs(1);

/// Reads the control stream until it ends; tells the driver of each frame and of the end.
pub(super) async fn read(
    link: LinkId,
    handle: LinkHandle,
    mut receiver: FrameReceiver,
    driver: mpsc::Sender<Input>,
) {
    let reason = loop {
        match receiver.next_frame().await {
            Ok(Some(frame)) => {
                if driver.send(Input::Frame { link, frame }).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                let closing = tokio::time::timeout(CLOSE_AFTER_STREAM, handle.closed()).await;
                break closing.unwrap_or_else(|_| "the peer ended the control stream".to_owned());
            }
            Err(e) => break e.to_string(),
        }
    };
    handle.close(&reason);
    let _stopping = driver.send(Input::Closed { link, reason }).await;
}

/// Writes what the driver queues; when the driver drops the queue, delivers the rest and closes the link. `_open` tells
/// the driver, by its end, when that is done.
pub(super) async fn write(
    handle: LinkHandle,
    mut sender: FrameSender,
    mut queue: mpsc::Receiver<Frame>,
    close_reason: oneshot::Receiver<String>,
    _open: mpsc::Sender<Infallible>,
) {
    while let Some(frame) = queue.recv().await {
        sender.put_frame(&frame);
        while let Ok(frame) = queue.try_recv() {
            sender.put_frame(&frame);
        }
        if let Err(error) = sender.flush().await {
            return handle.close(&error.to_string());
        }
    }
    let _late = tokio::time::timeout(LAST_FRAMES, sender.finish_and_wait()).await;
    handle.close(&close_reason.await.unwrap_or_default());
}
