//! How far a long payload or a long answer is, on stderr where that is a terminal.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a unit runs before its progress is shown.
const PATIENCE: Duration = Duration::from_millis(700);

/// The progress of one unit. Shared by the half that sends and the half that receives, on one thread.
#[derive(Debug)]
pub(crate) struct Progress(RefCell<State>);

#[derive(Debug)]
struct State {
    /// `None` when nothing is to be shown.
    shown_from: Option<Instant>,
    bar: Option<ProgressBar>,
    length: Option<u64>,
    sent: u64,
    received: u64,
}

impl Progress {
    /// Progress of a unit with a payload of `length` bytes, shown where stderr is a terminal.
    pub(crate) fn new(length: Option<u64>) -> Self {
        let shown_from = io::stderr().is_terminal().then(|| Instant::now() + PATIENCE);
        Self(RefCell::new(State {
            shown_from,
            bar: None,
            length,
            sent: 0,
            received: 0,
        }))
    }

    /// Progress that is never shown.
    #[cfg(test)]
    pub(crate) fn hidden() -> Self {
        let progress = Self::new(None);
        progress.hide();
        progress
    }

    /// Counts payload bytes.
    pub(crate) fn sent(&self, bytes: usize) {
        let mut state = self.0.borrow_mut();
        state.sent += bytes as u64;
        state.draw();
    }

    /// Counts response bytes.
    pub(crate) fn received(&self, bytes: usize) {
        let mut state = self.0.borrow_mut();
        state.received += bytes as u64;
        state.draw();
    }

    /// Whether somebody may see it.
    pub(crate) fn is_shown(&self) -> bool {
        self.0.borrow().shown_from.is_some()
    }

    /// Says a line on stderr, above the display.
    pub(crate) fn say(&self, line: &str) {
        // With stderr closed there is nobody left to tell.
        let write = || drop(writeln!(anstream::stderr(), "node: {line}"));
        match &self.0.borrow().bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the display away for good.
    pub(crate) fn hide(&self) {
        let mut state = self.0.borrow_mut();
        state.shown_from = None;
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl State {
    fn draw(&mut self) {
        if self.shown_from.is_none_or(|from| Instant::now() < from) {
            return;
        }
        let uploading = self.length.is_some_and(|length| self.sent < length);
        let bar = self.bar.get_or_insert_with(|| new_bar(self.length));
        let (done, what) = if uploading || self.received == 0 {
            (self.sent, "sent")
        } else {
            (self.received, "received")
        };
        if !uploading && bar.length().is_some() {
            bar.unset_length();
            bar.set_style(style(None));
        }
        bar.set_message(what);
        bar.set_position(done);
    }
}

fn new_bar(length: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    bar.set_style(style(length));
    bar
}

fn style(length: Option<u64>) -> ProgressStyle {
    let template = match length {
        Some(_) => "{msg} {binary_bytes} of {binary_total_bytes} {wide_bar} {binary_bytes_per_sec} {eta}",
        None => "{msg} {binary_bytes} {binary_bytes_per_sec} {elapsed}",
    };
    ProgressStyle::with_template(template).expect("the template is a constant that parses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_parse() {
        style(Some(1));
        style(None);
    }
}
