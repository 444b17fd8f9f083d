// SPDX-License-Identifier: GPL-2.0-only

//! Kernel objects: directories in sysfs.
//!
//! Only objects that the C side allocates and releases are wrapped. Their memory may outlive their
//! directory and even this module, and none of our code runs when it goes.
//!
//! C header: [`include/linux/kobject.h`](srctree/include/linux/kobject.h)

#![allow(unsafe_code)]

use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    prelude::*,
    str::CStr,
    types::Opaque, //
};

/// A `struct kobject` that has a name, and that somebody holds a reference to.
#[repr(transparent)]
pub(crate) struct Kobject(Opaque<bindings::kobject>);

impl Kobject {
    /// The directory `/sys/fs`.
    pub(crate) fn fs() -> &'static Self {
        // SAFETY: `fs_kobj` is set while the kernel boots, and is never released. The layout of
        // `Self` is that of a kobject.
        unsafe { &*bindings::fs_kobj.cast() }
    }

    /// A kobject that C code passed. Any context.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a null pointer, and for a kobject that was never named.
    ///
    /// # Safety
    ///
    /// `ptr` must be null, or to a kobject that is neither released nor renamed during `'a`.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::kobject) -> Result<&'a Self> {
        // SAFETY: The caller promises that it is null or alive. The layout of `Self` is that of a
        // kobject.
        let this = unsafe { ptr.cast::<Self>().as_ref() }.ok_or(EINVAL)?;
        // SAFETY: The kobject is alive.
        if unsafe { (*ptr).name.is_null() } {
            return Err(EINVAL);
        }
        Ok(this)
    }

    /// What its directory is called.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: Every `Kobject` has a name, which does not change while it is borrowed.
        unsafe { CStr::from_char_ptr((*self.as_raw()).name) }
    }

    /// What tells this kobject from every other one that lives.
    pub(crate) fn identity(&self) -> usize {
        self.as_raw() as usize
    }

    /// The C object.
    pub(super) fn as_raw(&self) -> *mut bindings::kobject {
        self.0.get()
    }
}

/// A directory of our own in sysfs, which goes when this is dropped.
///
/// # Examples
///
/// ```ignore
/// let ours = Directory::create(c_str!("ours"), Kobject::fs())?;
/// let inner = Directory::create(c_str!("inner"), &ours)?;
/// ```
///
/// # Invariants
///
/// The pointer is to a kobject that is in sysfs, and this owns a reference to it.
pub(crate) struct Directory(NonNull<bindings::kobject>);

// SAFETY: A kobject may be used and given up by any task.
unsafe impl Send for Directory {}

// SAFETY: The methods only read what does not change while the kobject is in sysfs.
unsafe impl Sync for Directory {}

impl Directory {
    /// Makes a directory below `parent`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also for a name that is taken: the C side tells no difference, but logs it.
    pub(crate) fn create(name: &CStr, parent: &Kobject) -> Result<Self> {
        // SAFETY: The name is terminated, and copied. The parent is alive.
        let raw = unsafe { bindings::kobject_create_and_add(name.as_char_ptr(), parent.as_raw()) };
        // INVARIANT: A kobject that is returned has been added, and the reference is ours.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }
}

impl Deref for Directory {
    type Target = Kobject;

    fn deref(&self) -> &Kobject {
        // SAFETY: By the type invariant the kobject is alive. The layout of `Kobject` is that of
        // a kobject.
        unsafe { self.0.cast().as_ref() }
    }
}

impl Drop for Directory {
    /// Removes the directory and all files in it. Sleeps until nobody is in the middle of reading
    /// or writing one of them; who still holds one open gets `ENODEV` from then on.
    fn drop(&mut self) {
        // SAFETY: By the type invariant the kobject is in sysfs, and the reference is ours.
        unsafe {
            bindings::kobject_del(self.0.as_ptr());
            bindings::kobject_put(self.0.as_ptr());
        }
    }
}
