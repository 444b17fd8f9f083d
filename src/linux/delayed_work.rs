// SPDX-License-Identifier: GPL-2.0-only

//! Work that runs after a while, in task context.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

#![allow(unsafe_code)]

use super::{
    header,
    jiffies::Jiffies, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    ffi::c_int,
    prelude::*,
    str::CStr,
    sync::Arc,
    types::Opaque, //
};

/// A work queue of this module's own.
///
/// It can make progress under memory pressure, where no new worker can be made
/// (`WQ_MEM_RECLAIM`). Dropping it waits for what is queued: task context only.
///
/// # Invariants
///
/// The pointer is to a work queue, which this owns.
pub(crate) struct Queue(NonNull<bindings::workqueue_struct>);

// SAFETY: A work queue may be used and destroyed by any task.
unsafe impl Send for Queue {}

// SAFETY: A work queue brings its own lock.
unsafe impl Sync for Queue {}

impl Queue {
    /// Makes a queue of that name. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        Self::with_priority(name, false)
    }

    /// Makes a queue whose work goes before that of others (`WQ_HIGHPRI`). May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new_highpri(name: &CStr) -> Result<Self> {
        Self::with_priority(name, true)
    }

    fn with_priority(name: &CStr, highpri: bool) -> Result<Self> {
        // SAFETY: `name` is terminated, and copied.
        let raw =
            unsafe { header::scoutfs_fence_glue_alloc_workqueue(name.as_char_ptr(), highpri) };
        // INVARIANT: The queue was made for us alone.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the queue is ours. Nothing can be queued any more, for
        // that takes a reference to it.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// What a [`DelayedWork`] does when its time has come.
pub(crate) trait Run: Sized + Send + Sync + 'static {
    /// Runs in task context, and may sleep. The same work never runs twice at once.
    fn run(this: Arc<DelayedWork<Self>>);
}

/// A `T` that can be run later.
///
/// While it is queued the queue holds a reference to it, so nobody needs to take it off the queue
/// before dropping it.
///
/// # Examples
///
/// ```ignore
/// let this = Arc::pin_init(DelayedWork::new(Clock::new()), GFP_KERNEL)?;
/// DelayedWork::modify(&this, &queue, msecs_to_jiffies(100));
/// // 100 ms later `Clock::run` is called.
/// ```
///
/// # Invariants
///
/// `work` is initialised, and its function is `run_raw::<T>`. Each time that it is queued, the
/// queue owns one reference of the [`Arc`] that `self` lives in.
#[pin_data]
#[repr(C)]
pub(crate) struct DelayedWork<T: Run> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    #[pin]
    data: T,
}

// SAFETY: Work may be queued, cancelled and freed by any task, and runs on any.
unsafe impl<T: Run> Send for DelayedWork<T> {}

// SAFETY: The C functions on a `delayed_work` may be called at the same time, and `T` is `Sync`.
unsafe impl<T: Run> Sync for DelayedWork<T> {}

impl<T: Run> DelayedWork<T> {
    /// One that is not queued.
    pub(crate) fn new<E>(data: impl PinInit<T, E>) -> impl PinInit<Self, Error>
    where
        Error: From<E>,
    {
        try_pin_init!(Self {
            // INVARIANT: The work is initialised here, with the right function, and not queued.
            work <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and pinned as `self` is.
                unsafe {
                    header::scoutfs_fence_glue_init_delayed_work(slot, Some(run_raw::<T>))
                }
            }),
            data <- data,
        }? Error)
    }

    /// Lets it run in `delay` jiffies from now, whatever was planned before.
    ///
    /// Any context. Two calls at the same time must be serialised by the caller, or either may
    /// win. While [`cancel_sync`](Self::cancel_sync) runs this does nothing.
    pub(crate) fn modify(this: &Arc<Self>, queue: &Queue, delay: Jiffies) {
        Self::cancel(this);
        let queued = Arc::into_raw(this.clone());
        // SAFETY: Work and queue are valid by their type invariants. The reference in `queued`
        // keeps the work alive until it runs or is cancelled.
        if !unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                queue.0.as_ptr(),
                this.work.get(),
                delay,
            )
        } {
            // SAFETY: It was not queued, so the reference made above is still ours.
            drop(unsafe { Arc::from_raw(queued) });
        }
    }

    /// Takes it off the queue, and does not wait where it runs just now.
    fn cancel(this: &Arc<Self>) {
        // SAFETY: By the type invariant the work is initialised.
        if unsafe { bindings::cancel_delayed_work(this.work.get()) } {
            Self::drop_queued(this);
        }
    }

    /// Takes it off the queue, and waits until it does not run any more. May sleep.
    ///
    /// The caller sees to it that it is not queued again.
    pub(crate) fn cancel_sync(this: &Arc<Self>) {
        // SAFETY: By the type invariant the work is initialised.
        if unsafe { bindings::cancel_delayed_work_sync(this.work.get()) } {
            Self::drop_queued(this);
        }
    }

    /// Lets it run now where it is queued, and waits until it does not run any more. May sleep.
    ///
    /// It must not be called by what `run` waits for. Of two calls at the same time one may find
    /// nothing to wait for: the caller serialises them.
    pub(crate) fn flush(this: &Arc<Self>) {
        // SAFETY: By the type invariant the work is initialised. What the queue owns does not
        // change: it still runs the work, with the same reference.
        unsafe { bindings::flush_delayed_work(this.work.get()) };
    }

    /// Drops the reference that the queue owned, after the work was taken off it.
    fn drop_queued(this: &Arc<Self>) {
        let raw = Arc::into_raw(this.clone());
        // SAFETY: This is the reference made above.
        drop(unsafe { Arc::from_raw(raw) });
        // SAFETY: The work was on the queue and is not any more, so by the type invariant there
        // is one reference that nobody else will drop.
        drop(unsafe { Arc::from_raw(raw) });
    }
}

impl<T: Run> Deref for DelayedWork<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

/// The function of every [`DelayedWork<T>`].
///
/// # Safety
///
/// Only the work queue calls it, with the work of a `DelayedWork<T>` that was queued.
unsafe extern "C" fn run_raw<T: Run>(work: *mut bindings::work_struct) {
    // `work` is the first field of the `delayed_work`, which is the first field of `DelayedWork`.
    const { assert!(core::mem::offset_of!(bindings::delayed_work, work) == 0) };
    // SAFETY: By the type invariant the queue owned a reference, which is ours now that it runs.
    T::run(unsafe { Arc::from_raw(work.cast::<DelayedWork<T>>()) });
}
