// SPDX-License-Identifier: GPL-2.0-only

//! Superblocks, as identities.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

#![allow(unsafe_code)]

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// A superblock that a caller named.
///
/// Only [`device`](Self::device) dereferences the pointer.
#[derive(Clone, Copy)]
pub(crate) struct SuperBlock(NonNull<bindings::super_block>);

impl SuperBlock {
    /// Takes a pointer that a filesystem passed. Any context.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a null pointer.
    pub(crate) fn from_raw(ptr: *mut bindings::super_block) -> Result<Self> {
        Ok(Self(NonNull::new(ptr).ok_or(EINVAL)?))
    }

    /// A number that no other live superblock has.
    pub(crate) fn identity(self) -> usize {
        self.0.as_ptr() as usize
    }

    /// The superblock's device number, `s_dev`.
    ///
    /// # Safety
    ///
    /// The pointer must be to a superblock whose device number has been set.
    pub(crate) unsafe fn device(self) -> Device {
        // SAFETY: The caller promises a superblock.
        Device(unsafe { (*self.0.as_ptr()).s_dev })
    }
}

/// A device number.
///
/// Mirrors `dev_t`, and the macros of `include/linux/kdev_t.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device(bindings::dev_t);

impl Device {
    const MINOR_BITS: u32 = 20;

    /// Mirrors `MAJOR()`.
    pub(crate) fn major(self) -> u32 {
        self.0 >> Self::MINOR_BITS
    }

    /// Mirrors `MINOR()`.
    pub(crate) fn minor(self) -> u32 {
        self.0 & ((1 << Self::MINOR_BITS) - 1)
    }
}
