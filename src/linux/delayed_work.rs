// SPDX-License-Identifier: GPL-2.0-only

//! Delayed work items, and workqueues that a module owns.
//!
//! The kernel crate of Linux 6.12 has work items without a delay only, and none of any kernel has
//! a workqueue that is destroyed. The types follow the kernel crate's `workqueue`: a work item is
//! a field of a refcounted object, and a pending work item owns a reference to that object.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)
//!
//! # Examples
//!
//! ```ignore
//! #[pin_data]
//! struct Clock {
//!     #[pin]
//!     tick: DelayedWork<Clock, 0>,
//! }
//!
//! impl_has_delayed_work! {
//!     impl HasDelayedWork<0> for Clock { self.tick }
//! }
//!
//! impl DelayedWorkItem<0> for Clock {
//!     fn run(this: Arc<Self>) {
//!         DelayedWork::<Self, 0>::schedule(&this, 100);
//!     }
//! }
//!
//! let queue = Queue::new(c_str!("clock"))?;
//! let tick = DelayedWork::new(queue, lock_class!("tick"), lock_class!("tick_timer"));
//! let clock = Arc::pin_init(pin_init!(Clock { tick <- tick }), GFP_KERNEL)?;
//! DelayedWork::<Clock, 0>::schedule(&clock, 100);
//! ```

#![allow(unsafe_code)]

use super::{
    header,
    jiffies::Jiffies,
    lock_class::LockClass,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    types::Opaque, //
};

/// A workqueue that is destroyed with its last reference.
///
/// Its work runs in task context, on any CPU (`WQ_UNBOUND`), before other work (`WQ_HIGHPRI`), and
/// makes progress under memory pressure (`WQ_MEM_RECLAIM`).
///
/// Dropping the last reference waits for running work, so a worker of this queue must not: keep a
/// reference elsewhere until all work has ended.
///
/// # Invariants
///
/// The pointer is to a workqueue, which this owns.
pub(crate) struct Queue(NonNull<bindings::workqueue_struct>);

// SAFETY: Any task may use and destroy a workqueue.
unsafe impl Send for Queue {}

// SAFETY: The workqueue functions lock as they need.
unsafe impl Sync for Queue {}

impl Queue {
    /// Allocates a workqueue. May sleep.
    /// Errors: `ENOMEM`.
    pub(crate) fn new(name: &CStr) -> Result<Arc<Self>> {
        // SAFETY: `name` is NUL-terminated, and copied.
        let raw = unsafe { header::scoutfs_fence_glue_alloc_workqueue(name.as_char_ptr()) };
        // INVARIANT: The workqueue was just allocated.
        let this = Self(NonNull::new(raw).ok_or(ENOMEM)?);
        Ok(Arc::new(this, GFP_KERNEL)?)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the workqueue is ours. No timer points to it: each pending
        // `DelayedWork` owns a reference to the queue.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// The function of a [`DelayedWork<Self, ID>`] field.
pub(crate) trait DelayedWorkItem<const ID: u64>: Send + Sync + Sized + 'static {
    /// Runs in task context; may sleep. One work item never runs twice at the same time.
    fn run(this: Arc<Self>);
}

/// Declares that a type has a [`DelayedWork<Self, ID>`] field. Implement it with
/// [`impl_has_delayed_work!`].
///
/// # Safety
///
/// [`OFFSET`](Self::OFFSET) must be the offset of a field of type `DelayedWork<Self, ID>`.
pub(crate) unsafe trait HasDelayedWork<const ID: u64>: DelayedWorkItem<ID> {
    /// The offset of the field.
    const OFFSET: usize;
}

/// Implements [`HasDelayedWork`] safely.
macro_rules! impl_has_delayed_work {
    ($(impl HasDelayedWork<$id:tt> for $type:ty { self.$field:ident })*) => {$(
        #[allow(unsafe_code)]
        // SAFETY: The constant only compiles if the field has the right type.
        unsafe impl $crate::linux::delayed_work::HasDelayedWork<$id> for $type {
            const OFFSET: usize = {
                // A raw pointer: a reference would also be to what a smart pointer points to.
                let _: fn(&$type) -> *const $crate::linux::delayed_work::DelayedWork<$type, $id> =
                    |this| &raw const this.$field;
                ::core::mem::offset_of!($type, $field)
            };
        }
    )*};
}
pub(crate) use impl_has_delayed_work;

/// A delayed work item: a field of a `T` that lives in an [`Arc`]. `ID` tells several apart.
///
/// # Invariants
///
/// `work` is initialised, and its function is `run_raw::<T, ID>`. While `work` is pending, it owns
/// a reference to the `T` around it, and so to `queue`, the only queue that it is ever put on.
#[pin_data]
#[repr(C)]
pub(crate) struct DelayedWork<T, const ID: u64> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    queue: Arc<Queue>,
    _container: PhantomData<fn(T)>,
}

// SAFETY: Any task may queue, cancel and free a work item; this holds no `T`.
unsafe impl<T, const ID: u64> Send for DelayedWork<T, ID> {}

// SAFETY: The C functions on a work item may be called concurrently; this holds no `T`.
unsafe impl<T, const ID: u64> Sync for DelayedWork<T, ID> {}

impl<T: HasDelayedWork<ID>, const ID: u64> DelayedWork<T, ID> {
    /// An idle work item for this queue. Its lock classes are `work` and, for its timer, `timer`.
    pub(crate) fn new(queue: Arc<Queue>, work: LockClass, timer: LockClass) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: The work is initialised here, with the right function, and idle.
            work <- Opaque::ffi_init(move |slot| {
                // SAFETY: `slot` is valid for writes, and pinned. The classes are static.
                unsafe {
                    header::scoutfs_fence_glue_init_delayed_work(
                        slot,
                        Some(run_raw::<T, ID>),
                        work.name.as_char_ptr(),
                        work.key(),
                        timer.name.as_char_ptr(),
                        timer.key(),
                    )
                }
            }),
            queue,
            _container: PhantomData,
        })
    }

    /// Queues the work item to run in `delay` jiffies, unless it is pending. Any context.
    pub(crate) fn schedule(item: &Arc<T>, delay: Jiffies) {
        // The pointers that the C side keeps are derived from the whole `T`, as `run_raw` needs.
        let container = Arc::into_raw(item.clone());
        let this = Self::of(container);
        // SAFETY: `this` is a field of the object that `item` keeps alive, and initialised by the
        // type invariants.
        // INVARIANT: If the work becomes pending, it owns the reference in `container`.
        let queued = unsafe {
            let queue = &(*this).queue;
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                queue.0.as_ptr(),
                Self::work(this),
                delay,
            )
        };
        if !queued {
            // SAFETY: The work did not take the reference.
            drop(unsafe { Arc::from_raw(container) });
        }
    }

    /// Queues the work item to run in `delay` jiffies, whether or not it is pending. Any context.
    ///
    /// The caller serialises this with itself: of two concurrent calls either delay may win.
    pub(crate) fn reschedule(item: &Arc<T>, delay: Jiffies) {
        // SAFETY: By the type invariant the work is initialised.
        if unsafe { bindings::cancel_delayed_work(Self::raw(item)) } {
            Self::drop_pending(item);
        }
        Self::schedule(item, delay);
    }

    /// Cancels the work item, and waits until it no longer runs. May sleep.
    pub(crate) fn cancel_sync(item: &Arc<T>) {
        // SAFETY: By the type invariant the work is initialised.
        if unsafe { bindings::cancel_delayed_work_sync(Self::raw(item)) } {
            Self::drop_pending(item);
        }
    }

    /// Runs the work item now if it is pending, and waits until it no longer runs. May sleep.
    ///
    /// The caller serialises this with itself: of two concurrent calls one may return early.
    pub(crate) fn flush(item: &Arc<T>) {
        // SAFETY: By the type invariant the work is initialised. Pending work keeps its reference.
        unsafe { bindings::flush_delayed_work(Self::raw(item)) };
    }

    /// The field of the object that `container` points to.
    fn of(container: *const T) -> *const Self {
        container.wrapping_byte_add(T::OFFSET).cast()
    }

    /// The C work at the beginning of the field.
    fn work(this: *const Self) -> *mut bindings::delayed_work {
        const { assert!(offset_of!(Self, work) == 0) };
        this.cast_mut().cast()
    }

    fn raw(item: &Arc<T>) -> *mut bindings::delayed_work {
        Self::work(Self::of(&raw const **item))
    }

    /// Drops the reference that the work item owned until it was cancelled.
    fn drop_pending(item: &Arc<T>) {
        let raw = Arc::into_raw(item.clone());
        // SAFETY: This is the reference from the line above.
        drop(unsafe { Arc::from_raw(raw) });
        // SAFETY: The work was pending and is not any more, so by the type invariant it owned this
        // reference. `item` keeps the object alive.
        drop(unsafe { Arc::from_raw(raw) });
    }
}

/// The C function of every [`DelayedWork<T, ID>`].
///
/// # Safety
///
/// Only the workqueue calls this, with the work of a pending `DelayedWork<T, ID>`.
unsafe extern "C" fn run_raw<T: HasDelayedWork<ID>, const ID: u64>(
    work: *mut bindings::work_struct,
) {
    const { assert!(offset_of!(bindings::delayed_work, work) == 0) };
    // The `work_struct` is at the beginning of the `delayed_work`, and that of the field.
    let container = work.cast::<T>().wrapping_byte_sub(T::OFFSET);
    // SAFETY: By the type invariant the work owned a reference, which is ours now that it runs.
    T::run(unsafe { Arc::from_raw(container) });
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::{
        jiffies::msecs_to_jiffies,
        kunit::{
            check_eq,
            suite, //
        },
        lock_class::lock_class,
        wait_queue::WaitQueue, //
    };
    use core::sync::atomic::{
        AtomicU32,
        Ordering, //
    };

    suite!(
        scoutfs_fence_delayed_work,
        [
            work_runs_once_for_each_time_that_it_is_queued,
            pending_work_keeps_its_object_and_queue,
            cancelled_work_drops_its_object,
            flushed_work_has_run,
            rescheduled_work_runs_earlier,
        ]
    );

    /// Outlives the objects.
    #[pin_data]
    struct Counts {
        ran: AtomicU32,
        dropped: AtomicU32,
        #[pin]
        changed: WaitQueue,
    }

    // The fields are dropped in this order: an object that counts as dropped has released its
    // queue, so that the test drops the last reference to that, and not the work that it runs.
    #[pin_data]
    struct Object {
        #[pin]
        work: DelayedWork<Object, 0>,
        counts: CountsDrop,
    }

    struct CountsDrop(Arc<Counts>);

    impl Drop for CountsDrop {
        fn drop(&mut self) {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
            self.0.changed.wake_up_all();
        }
    }

    impl_has_delayed_work! {
        impl HasDelayedWork<0> for Object { self.work }
    }

    impl DelayedWorkItem<0> for Object {
        fn run(this: Arc<Self>) {
            this.counts.0.ran.fetch_add(1, Ordering::SeqCst);
            this.counts.0.changed.wake_up_all();
        }
    }

    fn objects() -> Result<(Arc<Queue>, Arc<Counts>, Arc<Object>)> {
        let queue = Queue::new(c_str!("scoutfs_fence_test"))?;
        let counts = Arc::pin_init(
            pin_init!(Counts {
                ran: AtomicU32::new(0),
                dropped: AtomicU32::new(0),
                changed <- WaitQueue::new(lock_class!("scoutfs_fence_test_changed")),
            }),
            GFP_KERNEL,
        )?;
        let work = DelayedWork::new(
            queue.clone(),
            lock_class!("scoutfs_fence_test_work"),
            lock_class!("scoutfs_fence_test_timer"),
        );
        let for_object = counts.clone();
        let object = Arc::pin_init(
            pin_init!(Object {
                work <- work,
                counts: CountsDrop(for_object),
            }),
            GFP_KERNEL,
        )?;
        Ok((queue, counts, object))
    }

    /// How often the work ran and how many objects were dropped, when both have happened so often
    /// or a while has passed.
    fn until(counts: &Counts, wanted: (u32, u32)) -> (u32, u32) {
        let seen = || {
            (
                counts.ran.load(Ordering::SeqCst),
                counts.dropped.load(Ordering::SeqCst),
            )
        };
        let patience = msecs_to_jiffies(2000);
        let _ = counts
            .changed
            .wait_event_timeout(patience, || (seen() == wanted).then_some(()));
        seen()
    }

    fn work_runs_once_for_each_time_that_it_is_queued() -> Result {
        let (_queue, counts, object) = objects()?;
        DelayedWork::<_, 0>::schedule(&object, 1);
        DelayedWork::<_, 0>::schedule(&object, 1);
        check_eq!(until(&counts, (1, 0)), (1, 0));
        DelayedWork::<_, 0>::schedule(&object, 0);
        check_eq!(until(&counts, (2, 0)), (2, 0));
        drop(object);
        check_eq!(until(&counts, (2, 1)), (2, 1));
        Ok(())
    }

    fn pending_work_keeps_its_object_and_queue() -> Result {
        let (queue, counts, object) = objects()?;
        DelayedWork::<_, 0>::schedule(&object, msecs_to_jiffies(100));
        drop(object);
        check_eq!(until(&counts, (1, 1)), (1, 1));
        drop(queue);
        Ok(())
    }

    fn cancelled_work_drops_its_object() -> Result {
        let (_queue, counts, object) = objects()?;
        DelayedWork::<_, 0>::schedule(&object, msecs_to_jiffies(100_000));
        DelayedWork::<_, 0>::cancel_sync(&object);
        DelayedWork::<_, 0>::cancel_sync(&object);
        drop(object);
        check_eq!(until(&counts, (0, 1)), (0, 1));
        Ok(())
    }

    fn flushed_work_has_run() -> Result {
        let (_queue, counts, object) = objects()?;
        DelayedWork::<_, 0>::flush(&object);
        check_eq!(counts.ran.load(Ordering::SeqCst), 0);
        DelayedWork::<_, 0>::schedule(&object, msecs_to_jiffies(100_000));
        DelayedWork::<_, 0>::flush(&object);
        check_eq!(counts.ran.load(Ordering::SeqCst), 1);
        Ok(())
    }

    fn rescheduled_work_runs_earlier() -> Result {
        let (_queue, counts, object) = objects()?;
        DelayedWork::<_, 0>::schedule(&object, msecs_to_jiffies(100_000));
        DelayedWork::<_, 0>::reschedule(&object, 1);
        check_eq!(until(&counts, (1, 0)), (1, 0));
        drop(object);
        check_eq!(until(&counts, (1, 1)), (1, 1));
        Ok(())
    }
}
