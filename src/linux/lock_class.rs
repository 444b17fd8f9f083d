// SPDX-License-Identifier: GPL-2.0-only

//! Lock classes, by which lockdep tells locks apart.
//!
//! C header: [`include/linux/lockdep_types.h`](srctree/include/linux/lockdep_types.h)

use super::prelude::*;
use core::{
    pin::Pin,
    ptr, //
};
use kernel::{
    bindings,
    sync::LockClassKey, //
};

/// The name and the key of a lock class. Use [`lock_class!`].
pub(crate) struct LockClass {
    pub(super) name: &'static CStr,
    key: &'static LockClassKey,
}

impl LockClass {
    /// A class with a key of the kernel crate's `static_lock_class!`.
    pub(crate) fn new(name: &'static CStr, key: impl StaticKey) -> Self {
        let key = key.get();
        Self { name, key }
    }

    /// The C key, which the kernel crate of Linux 6.12 keeps to itself.
    pub(super) fn key(&self) -> *mut bindings::lock_class_key {
        // The layout of a `LockClassKey` is that of the C key on every kernel.
        ptr::from_ref(self.key).cast_mut().cast()
    }
}

/// A lock class of its own for each place that has this.
macro_rules! lock_class {
    ($name:literal) => {
        $crate::linux::lock_class::LockClass::new(
            kernel::c_str!($name),
            kernel::static_lock_class!(),
        )
    };
}
pub(crate) use lock_class;

/// The types that `static_lock_class!` has on the supported kernels.
pub(crate) trait StaticKey {
    fn get(self) -> &'static LockClassKey;
}

impl StaticKey for &'static LockClassKey {
    fn get(self) -> &'static LockClassKey {
        self
    }
}

impl StaticKey for Pin<&'static LockClassKey> {
    fn get(self) -> &'static LockClassKey {
        self.get_ref()
    }
}
