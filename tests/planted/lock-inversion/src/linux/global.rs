// SPDX-License-Identifier: GPL-2.0-only

//! A value that lives in the module's own memory, as long as the module does.

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
const READY: u8 = 2;

/// A static that is initialised once, in place, when the module is loaded.
///
/// The value is never dropped: the module that owns it empties it before it goes.
///
/// # Examples
///
/// ```ignore
/// static COUNTER: Global<Mutex<u32>> = Global::new();
///
/// COUNTER.init(new_mutex!(0))?;
/// *COUNTER.get().ok_or(ENODEV)?.lock() += 1;
/// ```
///
/// # Invariants
///
/// While `state` is `READY`, `value` is initialised, pinned, and no longer written to through the
/// cell. While it is `BUSY`, exactly one task, which set it, may touch `value`.
pub(crate) struct Global<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: `init` moves or makes a `T` on one task for others, and `get` shares it.
unsafe impl<T: Send + Sync> Sync for Global<T> {}

impl<T> Global<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Initialises the value. May sleep where `init` does.
    ///
    /// # Errors
    ///
    /// `EBUSY` where the value is there already, or what `init` returns, after which this can be
    /// called again.
    pub(crate) fn init<E>(&'static self, init: impl PinInit<T, E>) -> Result
    where
        Error: From<E>,
    {
        self.state
            .compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|_| EBUSY)?;
        // SAFETY: By the type invariant this task alone may touch the value, whose memory is
        // valid for writes; as the static never moves, the value stays pinned. After an error the
        // memory counts as uninitialised again.
        let result = unsafe { raw_try_init(self.value.get().cast(), init) };
        // INVARIANT: The value is initialised exactly where there was no error.
        self.state.store(
            if result.is_ok() { READY } else { EMPTY },
            Ordering::Release,
        );
        Ok(result?)
    }

    /// The value, once it has been initialised. Any context.
    pub(crate) fn get(&'static self) -> Option<&'static T> {
        if self.state.load(Ordering::Acquire) != READY {
            return None;
        }
        // SAFETY: By the type invariant the value is initialised, and only shared references to
        // it exist from now on.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }
}

/// Runs an initialiser.
///
/// # Safety
///
/// As for the kernel crate's function of this name, which not every kernel has.
unsafe fn raw_try_init<T, E>(slot: *mut T, init: impl PinInit<T, E>) -> Result<(), E> {
    // SAFETY: The caller promises what the initialiser asks for.
    unsafe {
        #[cfg(linux_6_12)]
        let result = init.__pinned_init(slot);
        #[cfg(not(linux_6_12))]
        let result = pin_init::raw_try_init(slot, init);
        result
    }
}
