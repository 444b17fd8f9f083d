// SPDX-License-Identifier: GPL-2.0-only

//! Wait queues.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

#![allow(unsafe_code)]

use super::{
    header,
    jiffies::{
        Jiffies,
        MAX_SCHEDULE_TIMEOUT, //
    },
    lock_class::LockClass,
    prelude::*, //
};
use core::ptr;
use kernel::{
    bindings,
    types::Opaque, //
};

/// A `wait_queue_head`.
///
/// Unlike the kernel crate's `CondVar` it has waits that are uninterruptible and have a timeout.
///
/// # Examples
///
/// ```ignore
/// // The condition takes the lock under which other tasks change the list.
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

// SAFETY: Any task may use and free a wait queue head.
unsafe impl Send for WaitQueue {}

// SAFETY: A wait queue head has its own lock.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// An empty queue.
    pub(crate) fn new(class: LockClass) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: The head is initialised here.
            head <- Opaque::ffi_init(move |slot| {
                // SAFETY: `slot` is valid for writes, and pinned. The class is static.
                unsafe {
                    bindings::__init_waitqueue_head(slot, class.name.as_char_ptr(), class.key())
                }
            }),
        })
    }

    /// Wakes every waiter, which then evaluates its condition again.
    ///
    /// Any context, any spinlock held. The caller has changed what the condition evaluates, under
    /// the lock that the condition takes.
    pub(crate) fn wake_up_all(&self) {
        // SAFETY: By the type invariant the head is initialised.
        unsafe { bindings::__wake_up(self.head.get(), bindings::TASK_NORMAL, 0, ptr::null_mut()) };
    }

    /// Waits, uninterruptibly, for at most `timeout` jiffies until `condition` returns something.
    ///
    /// Returns that and the jiffies left, or `None` on timeout. The condition is evaluated before
    /// the first sleep and after the last, so a timeout of 0 only evaluates it. It runs while the
    /// task is about to sleep: it may take spinlocks, but not sleep.
    ///
    /// Sleeps, unless the timeout is 0.
    pub(crate) fn wait_event_timeout<R>(
        &self,
        timeout: Jiffies,
        condition: impl FnMut() -> Option<R>,
    ) -> Option<(R, Jiffies)> {
        self.wait(bindings::TASK_UNINTERRUPTIBLE, timeout, condition)
    }

    /// Like [`wait_event_timeout`](Self::wait_event_timeout) in `TASK_IDLE`: no load average, no
    /// hung-task report.
    pub(crate) fn wait_event_idle_timeout<R>(
        &self,
        timeout: Jiffies,
        condition: impl FnMut() -> Option<R>,
    ) -> Option<(R, Jiffies)> {
        self.wait(bindings::TASK_IDLE, timeout, condition)
    }

    /// Waits in `state`, which allows no signals: `TASK_UNINTERRUPTIBLE` or `TASK_IDLE`.
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

        // SAFETY: The function only checks the context.
        unsafe { header::scoutfs_fence_glue_might_sleep() };
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` is valid for writes, and does not move before `finish_wait`.
        unsafe { bindings::init_wait_entry(entry.get(), 0) };
        let found = loop {
            // The state allows no signals, so there is no error.
            // SAFETY: By the type invariant the head is initialised, and so is the entry.
            unsafe {
                bindings::prepare_to_wait_event(self.head.get(), entry.get(), state as c_int)
            };
            let found = condition();
            if found.is_some() || remaining == 0 {
                break found;
            }
            // SAFETY: The task is prepared to sleep. The timeout is not negative, and neither is
            // the result.
            remaining = unsafe { bindings::schedule_timeout(remaining as c_long) } as Jiffies;
        };
        // SAFETY: Both are initialised, and the entry is on no other queue.
        unsafe { bindings::finish_wait(self.head.get(), entry.get()) };
        found.map(|found| (found, remaining))
    }
}
