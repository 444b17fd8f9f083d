// SPDX-License-Identifier: GPL-2.0-only

//! A static that is initialised once, in place.
//!
//! The `SetOnce` of newer kernel crates is not there in Linux 6.12, and takes a value that can be
//! moved, which one with locks cannot.

#![allow(unsafe_code)]

use super::prelude::*;
use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    sync::atomic::{
        AtomicU8,
        Ordering, //
    }, //
};

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const SET: u8 = 2;

/// A value that is set at most once, and never dropped: on unload the module empties it.
///
/// # Examples
///
/// ```ignore
/// static COUNTER: SetOnce<Mutex<u32>> = SetOnce::new();
///
/// COUNTER.populate(new_mutex!(0))?;
/// *COUNTER.as_ref().ok_or(ENODEV)?.lock() += 1;
/// ```
///
/// # Invariants
///
/// While `state` is `SET`, `value` is initialised, pinned and only borrowed shared. While it is
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

    /// Initialises the value. May sleep if `init` does.
    /// Errors: `EBUSY` if the value is set; that of `init`, after which this may be called again.
    pub(crate) fn populate<E>(&'static self, init: impl PinInit<T, E>) -> Result
    where
        Error: From<E>,
    {
        self.state
            .compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|_| EBUSY)?;
        // SAFETY: By the type invariant only this task accesses the value, whose memory is valid
        // for writes. A static never moves, so the value stays pinned. After an error the memory
        // counts as uninitialised.
        let result = unsafe { raw_try_init(self.value.get().cast(), init) };
        // INVARIANT: The value is initialised if and only if there was no error.
        self.state
            .store(if result.is_ok() { SET } else { EMPTY }, Ordering::Release);
        Ok(result?)
    }

    /// The value, if it is set. Any context.
    pub(crate) fn as_ref(&'static self) -> Option<&'static T> {
        if self.state.load(Ordering::Acquire) != SET {
            return None;
        }
        // SAFETY: By the type invariant the value is initialised, and only borrowed shared.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }
}

/// Runs an initialiser.
///
/// # Safety
///
/// As for the function of this name in `pin_init`, which not every kernel has.
unsafe fn raw_try_init<T, E>(slot: *mut T, init: impl PinInit<T, E>) -> Result<(), E> {
    // SAFETY: The caller promises what the initialiser needs.
    unsafe {
        #[cfg(not(raw_try_init))]
        let result = init.__pinned_init(slot);
        #[cfg(raw_try_init)]
        let result = pin_init::raw_try_init(slot, init);
        result
    }
}
