// SPDX-License-Identifier: GPL-2.0-only

//! The state machine of a fence request, and its events that are still to be sent.
//!
//! ```text
//! pending ----> fenced ----> failed
//!    |                         ^
//!    +-------------------------+
//! ```
//!
//! No transition leads back, and failed wins over fenced. No locks, no side effects: a
//! [`RequestState`] is protected by the spinlock of its mount, and events are queued in it when
//! they happen and sent later, without the lock.

use crate::linux::{
    errno::ESTALE,
    header,
    jiffies::{
        jiffies64_to_msecs,
        msecs_to_jiffies,
        Jiffies, //
    },
    prelude::*, //
};

/// The reasons with a name are numbered from 0.
const NAMED_REASONS: usize = header::SCOUTFS_FENCE_QUORUM_BLOCK_LEADER as usize + 1;

/// The number of reason classes.
pub(crate) const REASON_CLASSES: usize = NAMED_REASONS + 1;

/// The class of a reason: its own if it has a name, else the one that all others share.
pub(crate) fn reason_class(reason: c_int) -> usize {
    usize::try_from(reason).map_or(NAMED_REASONS, |reason| reason.min(NAMED_REASONS))
}

/// The name of a reason in sysfs and uevents.
pub(crate) fn reason_name(reason: c_int) -> &'static str {
    match u32::try_from(reason) {
        Ok(header::SCOUTFS_FENCE_CLIENT_RECOVERY) => "client_recovery",
        Ok(header::SCOUTFS_FENCE_CLIENT_RECONNECT) => "client_reconnect",
        Ok(header::SCOUTFS_FENCE_QUORUM_BLOCK_LEADER) => "quorum_block_leader",
        _ => "unknown",
    }
}

/// The status of a request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Status {
    /// Not answered.
    #[default]
    Pending,
    /// The mount can no longer write.
    Fenced,
    /// The mount could not be fenced, or the request timed out.
    Failed,
}

impl Status {
    /// Its name in uevents.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Fenced => "fenced",
            Status::Failed => "failed",
        }
    }
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The agent wrote to `error`.
    Indicated,
    /// The timeout expired.
    TimedOut,
}

/// How a request left the list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// `free`.
    Freed,
    /// `stop` or `destroy`.
    Dropped,
}

/// An event of a request; each happens at most once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is listed, and its directory is complete.
    Added,
    /// The agent wrote to `fenced`, at that time.
    Fenced(Jiffies),
    /// It failed.
    Failed(Failure),
    /// It is no longer listed, and its directory is removed: the last event.
    Removed(Removal),
}

/// An event, and the status that listeners know before and after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) event: Event,
    pub(crate) from: Status,
    pub(crate) to: Status,
}

/// The events of one request that are still to be sent.
#[derive(Default)]
pub(crate) struct PendingEvents {
    /// In the order in which they happen.
    events: [Option<Event>; 4],
    /// Whether the request was added.
    added: bool,
    /// The status that was sent last.
    sent: Status,
}

impl PendingEvents {
    /// Queues an event that has happened.
    pub(crate) fn queue(&mut self, event: Event) {
        let position = match event {
            Event::Added => 0,
            Event::Fenced(_) => 1,
            Event::Failed(_) => 2,
            Event::Removed(_) => 3,
        };
        self.events[position] = Some(event);
        self.added |= event == Event::Added;
    }

    /// Takes the next event: in the order in which they happened, and none before the request is
    /// added, which an agent's answer may precede.
    pub(crate) fn next(&mut self) -> Option<Transition> {
        if !self.added {
            return None;
        }
        let event = self.events.iter_mut().find_map(Option::take)?;
        let from = self.sent;
        match event {
            Event::Fenced(_) => self.sent = Status::Fenced,
            Event::Failed(_) => self.sent = Status::Failed,
            Event::Added | Event::Removed(_) => {}
        }
        let to = self.sent;
        Some(Transition { event, from, to })
    }
}

/// The mutable state of a fence request.
pub(crate) struct RequestState {
    /// A mask of reason classes.
    reasons: u8,
    started: Jiffies,
    deadline: Jiffies,
    status: Status,
    pub(crate) events: PendingEvents,
}

impl RequestState {
    /// A request that was started at `now` and is to be answered within `timeout_ms`. As a part of
    /// that tick is over, the deadline is one later.
    pub(crate) fn new(reason: c_int, now: Jiffies, timeout_ms: u32) -> Self {
        Self {
            reasons: 1 << reason_class(reason),
            started: now,
            deadline: now.saturating_add(msecs_to_jiffies(timeout_ms) + 1),
            status: Status::Pending,
            events: PendingEvents::default(),
        }
    }

    /// Whether it was started for a reason of this class.
    pub(crate) fn has_reason(&self, class: usize) -> bool {
        self.reasons & (1 << class) != 0
    }

    /// Adds a reason class; returns whether it is new.
    pub(crate) fn add_reason(&mut self, class: usize) -> bool {
        let new = !self.has_reason(class);
        self.reasons |= 1 << class;
        new
    }

    /// The agent says, at `now`, that the mount can no longer write.
    ///
    /// Returns whether that changes the status.
    /// Errors: `ESTALE` if the request has failed, which the leader may have seen.
    pub(crate) fn fence(&mut self, now: Jiffies) -> Result<bool> {
        match self.status {
            Status::Pending => {
                self.status = Status::Fenced;
                self.events.queue(Event::Fenced(now));
                Ok(true)
            }
            Status::Fenced => Ok(false),
            Status::Failed => Err(ESTALE.into()),
        }
    }

    /// Fails the request; returns whether that changes the status.
    pub(crate) fn fail(&mut self, failure: Failure) -> bool {
        let changed = self.status != Status::Failed;
        if changed {
            self.status = Status::Failed;
            self.events.queue(Event::Failed(failure));
        }
        changed
    }

    /// Whether the mount was fenced and the request has not failed since.
    pub(crate) fn is_fenced(&self) -> bool {
        self.status == Status::Fenced
    }

    /// Whether the request failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.status == Status::Failed
    }

    /// Whether the request was fenced or failed.
    pub(crate) fn is_finished(&self) -> bool {
        self.status != Status::Pending
    }

    /// The tick at which the request times out; `None` once it is finished.
    pub(crate) fn deadline(&self) -> Option<Jiffies> {
        (!self.is_finished()).then_some(self.deadline)
    }

    /// The milliseconds from the start to `now`.
    pub(crate) fn elapsed_ms(&self, now: Jiffies) -> u64 {
        jiffies64_to_msecs(now.saturating_sub(self.started))
    }
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::kunit::{
        check,
        check_eq,
        suite, //
    };

    suite!(
        scoutfs_fence_request,
        [
            a_new_request_is_pending,
            every_transition_is_as_the_diagram_has_it,
            only_the_first_time_changes_the_status,
            reasons_have_names,
            reasons_without_a_name_share_a_class,
            a_reason_is_new_once,
            a_finished_request_has_no_deadline,
            elapsed_time_counts_from_the_start,
            every_event_is_sent_once_and_in_order,
            no_event_is_sent_before_the_request_is_added,
            a_transition_has_the_status_before_and_after,
        ]
    );

    fn request() -> RequestState {
        RequestState::new(0, 1000, 30_000)
    }

    /// What can be seen of the status.
    fn seen(request: &RequestState) -> (bool, bool, bool) {
        (
            request.is_fenced(),
            request.has_failed(),
            request.is_finished(),
        )
    }

    const PENDING: (bool, bool, bool) = (false, false, false);
    const FENCED: (bool, bool, bool) = (true, false, true);
    const FAILED: (bool, bool, bool) = (false, true, true);

    fn in_status(status: (bool, bool, bool)) -> RequestState {
        let mut request = request();
        request.status = match status {
            FENCED => Status::Fenced,
            FAILED => Status::Failed,
            _ => Status::Pending,
        };
        request
    }

    fn a_new_request_is_pending() {
        let request = RequestState::new(1, 1000, 30_000);
        check!(request.has_reason(1));
        check!(!request.has_reason(0) && !request.has_reason(2) && !request.has_reason(3));
        check_eq!(seen(&request), PENDING);
    }

    fn every_transition_is_as_the_diagram_has_it() {
        for (from, to) in [(PENDING, FENCED), (FENCED, FENCED), (FAILED, FAILED)] {
            let mut request = in_status(from);
            check_eq!(seen(&request), from);
            check_eq!(request.fence(1000).is_err(), from == FAILED);
            check_eq!(seen(&request), to);
        }
        for from in [PENDING, FENCED, FAILED] {
            let mut request = in_status(from);
            request.fail(Failure::Indicated);
            check_eq!(seen(&request), FAILED);
        }
    }

    fn only_the_first_time_changes_the_status() {
        let mut request = request();
        check_eq!(request.fence(1000), Ok(true));
        check_eq!(request.fence(1000), Ok(false));
        check!(request.fail(Failure::Indicated));
        check!(!request.fail(Failure::Indicated));
        check_eq!(request.fence(1000), Err(ESTALE.into()));
    }

    fn reasons_have_names() {
        for (reason, name) in [
            (0, "client_recovery"),
            (1, "client_reconnect"),
            (2, "quorum_block_leader"),
            (3, "unknown"),
            (-1, "unknown"),
            (c_int::MAX, "unknown"),
            (c_int::MIN, "unknown"),
        ] {
            check_eq!(reason_name(reason), name);
        }
    }

    fn reasons_without_a_name_share_a_class() {
        for (reason, class) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 3),
            (4, 3),
            (-1, 3),
            (c_int::MAX, 3),
            (c_int::MIN, 3),
        ] {
            check_eq!(reason_class(reason), class);
        }
        check_eq!(REASON_CLASSES, 4);
    }

    fn a_reason_is_new_once() {
        let mut request = request();
        check!(!request.add_reason(0));
        for class in 1..REASON_CLASSES {
            check!(!request.has_reason(class));
            check!(request.add_reason(class));
            check!(!request.add_reason(class));
            check!(request.has_reason(class));
        }
        check!(request.has_reason(0));
    }

    fn a_finished_request_has_no_deadline() {
        let deadline = 1001 + msecs_to_jiffies(30_000);
        let mut fenced = request();
        check_eq!(fenced.deadline(), Some(deadline));
        check_eq!(fenced.fence(1000), Ok(true));
        check_eq!(fenced.deadline(), None);
        let mut failed = request();
        check!(failed.fail(Failure::Indicated));
        check_eq!(failed.deadline(), None);
    }

    fn elapsed_time_counts_from_the_start() {
        let mut request = request();
        let span = msecs_to_jiffies(30_000);
        check_eq!(request.elapsed_ms(1000), 0);
        check_eq!(request.elapsed_ms(1000 + span), 30_000);
        check!(request.fail(Failure::Indicated));
        check_eq!(request.elapsed_ms(1000 + 2 * span), 60_000);
    }

    const FENCED_AT: Event = Event::Fenced(7);
    const INDICATED: Event = Event::Failed(Failure::Indicated);
    const TIMED_OUT: Event = Event::Failed(Failure::TimedOut);
    const FREED: Event = Event::Removed(Removal::Freed);

    fn queued(events: &[Event]) -> PendingEvents {
        let mut pending = PendingEvents::default();
        for event in events {
            pending.queue(*event);
        }
        pending
    }

    fn sent(pending: &mut PendingEvents) -> Option<Event> {
        pending.next().map(|transition| transition.event)
    }

    fn every_event_is_sent_once_and_in_order() {
        let all = [Event::Added, FENCED_AT, TIMED_OUT, FREED];
        let mut pending = queued(&all);
        for event in all {
            check!(sent(&mut pending) == Some(event));
        }
        check!(sent(&mut pending).is_none());

        let mut pending = PendingEvents::default();
        for event in all {
            pending.queue(event);
            check!(sent(&mut pending) == Some(event));
            check!(sent(&mut pending).is_none());
        }
    }

    fn no_event_is_sent_before_the_request_is_added() {
        let mut pending = queued(&[FENCED_AT, INDICATED]);
        check!(sent(&mut pending).is_none());
        pending.queue(Event::Added);
        for event in [Event::Added, FENCED_AT, INDICATED] {
            check!(sent(&mut pending) == Some(event));
        }
        check!(sent(&mut pending).is_none());
    }

    fn a_transition_has_the_status_before_and_after() {
        let mut pending = queued(&[Event::Added, FENCED_AT, INDICATED, FREED]);
        let (new, fenced, failed) = (Status::Pending, Status::Fenced, Status::Failed);
        for (from, to) in [
            (new, new),
            (new, fenced),
            (fenced, failed),
            (failed, failed),
        ] {
            let transition = pending.next();
            check_eq!(transition.map(|sent| sent.from.name()), Some(from.name()));
            check_eq!(transition.map(|sent| sent.to.name()), Some(to.name()));
        }
    }
}
