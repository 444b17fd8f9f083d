// SPDX-License-Identifier: GPL-2.0-only

//! A superblock as an identity.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

#![allow(unsafe_code)]

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// Which superblock a call is about.
///
/// Only [`device`](Self::device) looks behind the pointer, so a pointer to anything else than a
/// superblock is found unknown and does no harm.
#[derive(Clone, Copy)]
pub(crate) struct SuperBlock(NonNull<bindings::super_block>);

impl SuperBlock {
    /// Takes a pointer that a filesystem passed.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a null pointer.
    pub(crate) fn from_raw(ptr: *mut bindings::super_block) -> Result<Self> {
        Ok(Self(NonNull::new(ptr).ok_or(EINVAL)?))
    }

    /// What tells this superblock from every other one that lives.
    pub(crate) fn identity(self) -> usize {
        self.0.as_ptr() as usize
    }

    /// The number of the superblock's device, `s_dev`.
    ///
    /// # Safety
    ///
    /// The pointer must be to a superblock whose device number has been set.
    pub(crate) unsafe fn device(self) -> Device {
        // SAFETY: The caller promises that there is a superblock behind the pointer.
        Device(unsafe { (*self.0.as_ptr()).s_dev })
    }
}

/// The number of a device.
///
/// Mirrors `dev_t`, and the macros of `include/linux/kdev_t.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device(bindings::dev_t);

impl Device {
    const MINOR_BITS: u32 = 20;

    /// The number of the driver.
    pub(crate) fn major(self) -> u32 {
        self.0 >> Self::MINOR_BITS
    }

    /// The number of the device among those of its driver.
    pub(crate) fn minor(self) -> u32 {
        self.0 & ((1 << Self::MINOR_BITS) - 1)
    }
}
