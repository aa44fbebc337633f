//! How far a request has come. The task that makes the request stores it in one byte.

use std::sync::atomic::{AtomicU8, Ordering};

/// What a request is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Waiting for a delivery thread.
    Queued = 0,
    /// Looking up the name, connecting, and TLS; nothing of this with a connection that was kept.
    Connecting = 1,
    /// Sending head and body.
    Sending = 2,
    /// Waiting for the head of the answer.
    Waiting = 3,
    /// Reading the body of the answer.
    Reading = 4,
}

impl Phase {
    /// The phase that a byte stands for; one that stands for none is the first.
    #[must_use]
    pub fn of(byte: u8) -> Phase {
        match byte {
            1 => Phase::Connecting,
            2 => Phase::Sending,
            3 => Phase::Waiting,
            4 => Phase::Reading,
            _ => Phase::Queued,
        }
    }

    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Phase::Queued => "waiting for a thread",
            Phase::Connecting => "connecting",
            Phase::Sending => "sending",
            Phase::Waiting => "waiting for the answer",
            Phase::Reading => "reading the answer",
        }
    }
}

/// Where the phase of a request is stored. The default stores it nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress(Option<&'static AtomicU8>);

impl Progress {
    /// Tells it there.
    #[must_use]
    pub fn at(place: &'static AtomicU8) -> Progress {
        Progress(Some(place))
    }

    pub(crate) fn is(self, phase: Phase) {
        if let Some(place) = self.0 {
            place.store(phase as u8, Ordering::Relaxed);
        }
    }
}
