// SPDX-License-Identifier: GPL-2.0-only

//! Kobjects: directories in sysfs. No kernel crate wraps them.
//!
//! All of them have the C side's `dynamic_kobj_ktype`, whose release function is `kfree`. So their
//! memory may outlive their directory, and even this module, without a call into it.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

#![allow(unsafe_code)]

use super::prelude::*;
use core::{
    fmt,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};
use kernel::{
    bindings,
    error::to_result,
    ffi,
    types::Opaque, //
};

/// A `struct kobject` that has a name.
///
/// # Invariants
///
/// A reference to the kobject is held, and it is not renamed, while this is borrowed.
#[repr(transparent)]
pub(crate) struct Kobject(Opaque<bindings::kobject>);

impl Kobject {
    /// `fs_kobj`, which is `/sys/fs`.
    pub(crate) fn fs() -> &'static Self {
        // SAFETY: `fs_kobj` is set during boot and never released. The layout of `Self` is that of
        // a kobject.
        // INVARIANT: `fs_kobj` has a name and is never renamed.
        unsafe { &*bindings::fs_kobj.cast() }
    }

    /// A kobject that C code passed. Any context.
    /// Errors: `EINVAL` for a null pointer, and for a kobject without a name.
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
        // INVARIANT: The caller promises the rest.
        Ok(this)
    }

    /// The name of its directory, with an escape sequence for each byte that is not printable
    /// ASCII.
    pub(crate) fn name(&self) -> impl fmt::Display + '_ {
        // SAFETY: By the type invariant there is a name, which does not change meanwhile.
        unsafe { bytes_of((*self.as_raw()).name) }.escape_ascii()
    }

    /// A number that no other live kobject has.
    pub(crate) fn identity(&self) -> usize {
        self.as_raw() as usize
    }

    pub(super) fn as_raw(&self) -> *mut bindings::kobject {
        self.0.get()
    }
}

/// The bytes of a C string without its NUL. The method of the kernel crate's `CStr` that returns
/// them has another name on each kernel.
///
/// # Safety
///
/// `string` must be to a NUL-terminated string that does not change during `'a`.
unsafe fn bytes_of<'a>(string: *const ffi::c_char) -> &'a [u8] {
    // SAFETY: The caller promises that there is a NUL, up to which the string is read.
    unsafe { slice::from_raw_parts(string.cast(), bindings::strlen(string)) }
}

/// A kobject of our own. Its directory is removed when this is dropped.
///
/// Holds a reference to its parent. Dropping it sleeps until no file in the directory is being read
/// or written; files that are still open then fail with `ENODEV`.
///
/// # Examples
///
/// ```ignore
/// let outer = Directory::create(c_str!("outer"), Kobject::fs())?;
/// let inner = Directory::create(c_str!("inner"), &outer)?;
/// ```
///
/// # Invariants
///
/// The pointer is to a kobject that has been added to sysfs, and this owns a reference to it. It is
/// derived from the whole allocation.
pub(crate) struct Directory(NonNull<bindings::kobject>);

// SAFETY: Any task may use and release a kobject.
unsafe impl Send for Directory {}

// SAFETY: The methods only read what does not change while the kobject is in sysfs.
unsafe impl Sync for Directory {}

impl Directory {
    /// Creates a directory below `parent`. May sleep.
    /// Errors: `ENOMEM`, also if the name is taken, which the C side logs.
    pub(crate) fn create(name: &CStr, parent: &Kobject) -> Result<Self> {
        // SAFETY: The name is NUL-terminated, and copied. The parent is alive.
        let raw = unsafe { bindings::kobject_create_and_add(name.as_char_ptr(), parent.as_raw()) };
        // INVARIANT: The kobject has been added, and the reference is ours.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// Initialises a kobject and creates its directory below `parent`. May sleep.
    /// Errors: `ENOMEM`; `EEXIST` if the name is taken, and `ENOENT` if the parent's directory has
    /// been removed, both of which the C side logs. The kobject has been freed then.
    ///
    /// # Safety
    ///
    /// `raw` must be to a zeroed kobject at the beginning of a kmalloc allocation, which this takes
    /// over.
    pub(super) unsafe fn add(
        raw: NonNull<bindings::kobject>,
        name: &CStr,
        parent: &Kobject,
    ) -> Result<Self> {
        // SAFETY: The kobject is zeroed. `fs_kobj` always has `dynamic_kobj_ktype`, which frees it
        // as a kmalloc allocation. The name is NUL-terminated, and copied. The parent is alive.
        let result = to_result(unsafe {
            bindings::kobject_init_and_add(
                raw.as_ptr(),
                (*bindings::fs_kobj).ktype,
                parent.as_raw(),
                c_str!("%s").as_char_ptr(),
                name.as_char_ptr(),
            )
        });
        if let Err(error) = result {
            // SAFETY: The kobject is initialised, and its only reference is ours.
            unsafe { bindings::kobject_put(raw.as_ptr()) };
            return Err(error);
        }
        // INVARIANT: The kobject has been added, and the reference is ours.
        Ok(Self(raw))
    }

    /// Its path below the mount point of sysfs, with a slash in front. May sleep.
    /// Errors: `ENOMEM`.
    pub(super) fn path(&self) -> Result<KVec<u8>> {
        // SAFETY: By the type invariant the kobject and its parents are in sysfs.
        let raw = unsafe { bindings::kobject_get_path(self.0.as_ptr(), bindings::GFP_KERNEL) };
        if raw.is_null() {
            return Err(ENOMEM);
        }
        let mut path = KVec::new();
        // SAFETY: The path is NUL-terminated.
        let copied = path.extend_from_slice(unsafe { bytes_of(raw) }, GFP_KERNEL);
        // SAFETY: It is a kmalloc allocation, and ours.
        unsafe { bindings::kfree(raw.cast()) };
        copied?;
        Ok(path)
    }

    /// Wakes the pollers of the file `name`. May sleep.
    pub(crate) fn notify(&self, name: &CStr) {
        // SAFETY: By the type invariant the kobject is in sysfs. The name is NUL-terminated.
        unsafe { bindings::sysfs_notify(self.0.as_ptr(), ptr::null(), name.as_char_ptr()) };
    }
}

impl Deref for Directory {
    type Target = Kobject;

    fn deref(&self) -> &Kobject {
        // SAFETY: By the type invariant the kobject is alive. The layout of `Kobject` is that of
        // a kobject.
        // INVARIANT: It was added with a name, and is not renamed.
        unsafe { self.0.cast().as_ref() }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the kobject is in sysfs, and the reference is ours.
        unsafe {
            bindings::kobject_del(self.0.as_ptr());
            bindings::kobject_put(self.0.as_ptr());
        }
    }
}

/// A `struct kset`. Its name is the subsystem of its members' uevents.
///
/// # Invariants
///
/// The pointer is to a kset that has been added to sysfs, and this owns a reference to it.
pub(crate) struct Kset(NonNull<bindings::kset>);

// SAFETY: Any task may use and release a kset.
unsafe impl Send for Kset {}

// SAFETY: A kset has its own lock.
unsafe impl Sync for Kset {}

impl Kset {
    /// Creates a kset below `parent`. May sleep.
    /// Errors: `ENOMEM`, also if the name is taken, which the C side logs.
    pub(crate) fn create(name: &CStr, parent: &Kobject) -> Result<Self> {
        // SAFETY: The name is NUL-terminated, and copied. The parent is alive. The operations may
        // be null.
        let raw = unsafe {
            bindings::kset_create_and_add(name.as_char_ptr(), ptr::null(), parent.as_raw())
        };
        // INVARIANT: The kset has been added, and the reference is ours.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    pub(super) fn as_raw_kset(&self) -> *mut bindings::kset {
        self.0.as_ptr()
    }
}

impl Deref for Kset {
    type Target = Kobject;

    fn deref(&self) -> &Kobject {
        // SAFETY: By the type invariant the kset is alive. The layout of `Kobject` is that of its
        // kobject.
        // INVARIANT: It was added with a name, and is not renamed.
        unsafe { &*(&raw const (*self.0.as_ptr()).kobj).cast() }
    }
}

impl Drop for Kset {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the kset is in sysfs, and the reference is ours.
        unsafe { bindings::kset_unregister(self.0.as_ptr()) };
    }
}
