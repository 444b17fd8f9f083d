// SPDX-License-Identifier: GPL-2.0-only

//! Sends the events of a mount's requests: uevents, poll wake-ups and log lines.
//!
//! All of these may sleep for long: a uevent takes a system-wide mutex under which other tasks
//! allocate memory, and a log line may wait for the console. So the mount's notify work sends
//! events; filesystems and agents do not wait for it, except in `destroy`.

use crate::{
    attrs::{
        FenceRequest,
        Name,
        ERROR,
        FENCED, //
    },
    linux::{
        glue,
        inet,
        kobject::{
            Directory,
            Kset, //
        },
        memalloc::memalloc_nofs,
        prelude::*,
        uevent::{
            Action,
            UeventSender, //
        }, //
    },
    request::{
        reason_name,
        Event,
        Failure,
        Removal,
        Status,
        Transition, //
    }, //
};
use core::fmt;
use kernel::list::{
    List,
    ListArc, //
};

/// The requests of a mount with events to be sent, oldest first.
///
/// The events of one request are sent in the order in which they happened, and `remove` of a
/// request before `add` of a later one for the same rid: `start` queues the later request after
/// `free` or `stop` queued the earlier one, and one work item sends all.
#[pin_data]
pub(crate) struct Notifier {
    #[pin]
    queue: SpinLock<List<FenceRequest>>,
    /// Only the notify work takes it.
    #[pin]
    sender: Mutex<UeventSender>,
}

impl Notifier {
    /// A notifier for requests whose directories are in `fence`. May sleep.
    /// Errors: `ENOMEM`.
    pub(crate) fn new(kset: &Kset, fence: &Directory) -> Result<impl PinInit<Self>> {
        let sender = UeventSender::new(kset, fence)?;
        Ok(pin_init!(Self {
            queue <- new_spinlock!(List::new(), "scoutfs_fence_notify"),
            sender <- new_mutex!(sender, "scoutfs_fence_sender"),
        }))
    }

    /// Queues a request; returns whether the caller has to schedule the notify work. Never sleeps.
    pub(crate) fn queue(&self, request: ArcBorrow<'_, FenceRequest>) -> bool {
        let mut queue = self.queue.lock();
        // Fails for a queued request, whose new events the work will find. Only under the lock, as
        // the work dequeues a request before it takes its events.
        match ListArc::try_from_arc_borrow(request) {
            Some(request) => {
                queue.push_back(request);
                true
            }
            None => false,
        }
    }

    /// Sends all queued events. Sleeps.
    pub(crate) fn send_all(&self) {
        memalloc_nofs(|| {
            let mut sender = self.sender.lock();
            while let Some(request) = self.next() {
                while let Some(transition) = request.with_state(|state| state.events.next()) {
                    log(&request, transition.event);
                    wake_pollers(&request, &transition);
                    // Uevents are also lost if an agent's buffer is full, so agents scan the
                    // directories as well.
                    let _ = send_uevent(&mut sender, &request, &transition);
                }
            }
        });
    }

    fn next(&self) -> Option<Arc<FenceRequest>> {
        self.queue.lock().pop_front().map(ListArc::into_arc)
    }
}

/// Existing monitors match the words of the errors.
fn log(request: &FenceRequest, event: Event) {
    let mount = request.mount.label();
    let rid = Name(request.rid);
    let debug = |text: fmt::Arguments<'_>| {
        glue::log_debug(mount, format_args!("fence request for rid {rid} {text}"));
    };
    match event {
        Event::Added => {
            let address = inet::Display(request.address);
            let reason = reason_name(request.reason);
            debug(format_args!("at {address} made: {reason}"));
        }
        Event::Fenced(time) => {
            let elapsed_ms = request.with_state(|state| state.elapsed_ms(time));
            debug(format_args!("fenced after {elapsed_ms}ms"));
        }
        Event::Failed(Failure::Indicated) => glue::log_error(
            mount,
            format_args!("error indicated by fence action for rid {rid}"),
        ),
        Event::Failed(Failure::TimedOut) => {
            let timeout_ms = request.timeout_ms;
            glue::log_error(
                mount,
                format_args!(
                    "fence request for rid {rid} was not serviced in {timeout_ms}ms, raising error"
                ),
            );
        }
        Event::Removed(Removal::Freed) => debug(format_args!("freed")),
        Event::Removed(Removal::Dropped) => debug(format_args!("dropped")),
    }
}

/// Wakes the pollers of the files whose value has changed.
fn wake_pollers(request: &FenceRequest, transition: &Transition) {
    for (file, status) in [(FENCED, Status::Fenced), (ERROR, Status::Failed)] {
        if (transition.from == status) != (transition.to == status) {
            request.notify(file);
        }
    }
}

fn send_uevent(
    sender: &mut UeventSender,
    request: &FenceRequest,
    transition: &Transition,
) -> Result {
    let action = match transition.event {
        Event::Added => Action::Add,
        Event::Fenced(_) | Event::Failed(_) => Action::Change,
        Event::Removed(_) => Action::Remove,
    };
    let name = Name(request.rid);
    sender.send(
        &name,
        action,
        [
            ("SCOUTFS_FENCE_RID", &name),
            ("SCOUTFS_FENCE_ADDRESS", &inet::Display(request.address)),
            ("SCOUTFS_FENCE_REASON", &reason_name(request.reason)),
            ("SCOUTFS_FENCE_STATE", &transition.to.name()),
        ],
    )
}
