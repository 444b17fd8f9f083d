// SPDX-License-Identifier: GPL-2.0-only

//! A static that is set once. The `SetOnce` of newer kernel crates is not there in Linux 6.12.

#![allow(unsafe_code)]

use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    sync::atomic::{
        AtomicU8,
        Ordering, //
    }, //
};
use kernel::prelude::*;

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const SET: u8 = 2;

/// A value that is set at most once, and never dropped: on unload the module empties it.
///
/// # Examples
///
/// ```ignore
/// static COUNTER: SetOnce<Arc<Mutex<u32>>> = SetOnce::new();
///
/// COUNTER.populate(Arc::pin_init(new_mutex!(0), GFP_KERNEL)?)?;
/// *COUNTER.as_ref().ok_or(ENODEV)?.lock() += 1;
/// ```
///
/// # Invariants
///
/// While `state` is `SET`, `value` is initialised and only borrowed shared. While it is
/// `BUSY`, only the task that set that may access `value`.
pub(crate) struct SetOnce<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: `populate` makes a `T` on one task for others, and `as_ref` shares it.
unsafe impl<T: Send + Sync> Sync for SetOnce<T> {}

impl<T> SetOnce<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Sets the value. Any context.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is set, or being set.
    pub(crate) fn populate(&self, value: T) -> Result {
        self.state
            .compare_exchange(EMPTY, BUSY, Ordering::Relaxed, Ordering::Relaxed)
            .map_err(|_| EBUSY)?;
        // SAFETY: By the type invariant only this task accesses the value.
        unsafe { (*self.value.get()).write(value) };
        // INVARIANT: The value is initialised.
        self.state.store(SET, Ordering::Release);
        Ok(())
    }

    /// The value, if it is set. Any context.
    pub(crate) fn as_ref(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != SET {
            return None;
        }
        // SAFETY: By the type invariant the value is initialised, and only borrowed shared.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }
}
