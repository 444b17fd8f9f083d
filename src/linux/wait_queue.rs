// SPDX-License-Identifier: GPL-2.0-only

//! Wait queues: sleep until a condition holds or a time has passed.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

#![allow(unsafe_code)]

use super::{
    header,
    jiffies::{
        Jiffies,
        MAX_SCHEDULE_TIMEOUT, //
    }, //
};
use core::ptr;
use kernel::{
    bindings,
    ffi::{
        c_int,
        c_long, //
    },
    prelude::*,
    types::Opaque, //
};

/// Tasks that sleep until something changes.
///
/// It differs from the kernel crate's `CondVar` in that a wait has a timeout and cannot be
/// interrupted, and in that the condition may take any lock that does not sleep.
///
/// # Examples
///
/// ```ignore
/// let (item, remaining) = queue
///     .wait_event_timeout(msecs_to_jiffies(100), || list.lock().pop_front())
///     .ok_or(ETIMEDOUT)?;
/// ```
///
/// # Invariants
///
/// `head` is initialised.
#[pin_data]
pub(crate) struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue head may be used and freed by any task.
unsafe impl Send for WaitQueue {}

// SAFETY: A wait queue head brings its own lock.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// An empty queue.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: The head is initialised here, before anybody can see it.
            head <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and pinned as the queue is.
                unsafe { header::scoutfs_fence_glue_init_waitqueue_head(slot) }
            }),
        })
    }

    /// Wakes every task that waits, so that it looks at its condition again.
    ///
    /// Any context, any spinlock held. What the condition looks at must have been changed before,
    /// under the lock that the condition takes.
    pub(crate) fn wake_up_all(&self) {
        // SAFETY: By the type invariant the head is initialised.
        unsafe { bindings::__wake_up(self.head.get(), bindings::TASK_NORMAL, 0, ptr::null_mut()) };
    }

    /// Waits, uninterruptibly, until `condition` returns something, for `timeout` jiffies at most.
    ///
    /// Returns that, and the jiffies that were left; `None` on timeout. The condition is looked at
    /// once before the first sleep and once after the last, so that a timeout of 0 only looks, and
    /// a change in the last moment counts.
    ///
    /// Sleeps, unless the timeout is 0. The condition runs while the task is about to sleep: it
    /// may take spinlocks, and must not sleep itself.
    pub(crate) fn wait_event_timeout<R>(
        &self,
        timeout: Jiffies,
        condition: impl FnMut() -> Option<R>,
    ) -> Option<(R, Jiffies)> {
        self.wait(bindings::TASK_UNINTERRUPTIBLE, timeout, condition)
    }

    /// As [`wait_event_timeout`](Self::wait_event_timeout), for who may have nothing to do for
    /// days: it counts as idle, so that the load does not rise and nobody takes it for a hung task.
    pub(crate) fn wait_event_idle_timeout<R>(
        &self,
        timeout: Jiffies,
        condition: impl FnMut() -> Option<R>,
    ) -> Option<(R, Jiffies)> {
        self.wait(bindings::TASK_IDLE, timeout, condition)
    }

    /// Waits in this state, which allows no signals: `TASK_UNINTERRUPTIBLE` or `TASK_IDLE`.
    fn wait<R>(
        &self,
        state: u32,
        timeout: Jiffies,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Option<(R, Jiffies)> {
        let mut remaining = timeout.min(MAX_SCHEDULE_TIMEOUT);
        if remaining == 0 {
            return condition().map(|found| (found, 0));
        }

        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` is valid for writes, and does not move before `finish_wait`.
        unsafe { bindings::init_wait_entry(entry.get(), 0) };
        let found = loop {
            // There is no error to return, as the state allows no signals.
            // SAFETY: By the type invariant the head is initialised, and so is the entry.
            unsafe {
                bindings::prepare_to_wait_event(self.head.get(), entry.get(), state as c_int)
            };
            let found = condition();
            if found.is_some() || remaining == 0 {
                break found;
            }
            // SAFETY: The task is prepared to sleep, and the timeout is not negative. What is
            // returned lies between 0 and the timeout.
            remaining = unsafe { bindings::schedule_timeout(remaining as c_long) } as Jiffies;
        };
        // SAFETY: Both are initialised, and the entry is on no other queue.
        unsafe { bindings::finish_wait(self.head.get(), entry.get()) };
        found.map(|found| (found, remaining))
    }
}
