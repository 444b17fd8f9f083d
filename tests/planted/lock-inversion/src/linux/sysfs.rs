// SPDX-License-Identifier: GPL-2.0-only

//! Files in sysfs that show and change a value.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/kobject.h`](srctree/include/linux/kobject.h)

#![allow(unsafe_code)]

use super::{
    header,
    kobject::Directory,
    text::Text, //
};
use core::{
    fmt,
    mem::offset_of,
    ptr,
    slice, //
};
use kernel::{
    bindings,
    error::to_result,
    ffi,
    page::PAGE_SIZE,
    prelude::*,
    str::CStr,
    sync::Arc, //
};

/// One file of a directory about a `T`.
pub(crate) struct Attribute<T> {
    name: &'static CStr,
    show: fn(&T, &mut Text<'_>) -> fmt::Result,
    store: Option<fn(&T, &CStr) -> Result>,
}

impl<T> Attribute<T> {
    /// A file that everybody may read (0444). `show` writes the value, up to one page of it; it
    /// may sleep.
    pub(crate) const fn read_only(
        name: &'static CStr,
        show: fn(&T, &mut Text<'_>) -> fmt::Result,
    ) -> Self {
        Self {
            name,
            show,
            store: None,
        }
    }

    /// A file that everybody may read and root may write (0644).
    ///
    /// `store` gets what was written, up to one page of it. It may sleep, but must not wait for
    /// the removal of the directory, which waits for it.
    pub(crate) const fn read_write(
        name: &'static CStr,
        show: fn(&T, &mut Text<'_>) -> fmt::Result,
        store: fn(&T, &CStr) -> Result,
    ) -> Self {
        Self {
            name,
            show,
            store: Some(store),
        }
    }

    fn mode(&self) -> bindings::umode_t {
        match self.store {
            None => 0o444,
            Some(_) => 0o644,
        }
    }
}

/// A file as sysfs knows it: the C attribute comes first, what it is about behind it.
///
/// # Invariants
///
/// From `sysfs_create_file_ns` to the removal of the directory, `subject` is valid, and this does
/// not move.
#[repr(C)]
struct File<T: 'static> {
    raw: bindings::kobj_attribute,
    attribute: &'static Attribute<T>,
    subject: *const T,
}

impl<T: Send + Sync> File<T> {
    fn new(attribute: &'static Attribute<T>, subject: &Arc<T>) -> Self {
        let mut raw = bindings::kobj_attribute::default();
        raw.attr.name = attribute.name.as_char_ptr();
        raw.attr.mode = attribute.mode();
        #[cfg(linux_6_12)]
        {
            raw.show = Some(show_raw::<T>);
            raw.store = Some(store_raw::<T>);
        }
        #[cfg(not(linux_6_12))]
        {
            raw.__bindgen_anon_1.show = Some(show_raw::<T>);
            raw.__bindgen_anon_2.store = Some(store_raw::<T>);
        }
        // SAFETY: The function writes a field of the attribute, nothing else.
        unsafe { header::scoutfs_fence_glue_sysfs_attr_init(&mut raw.attr) };
        Self {
            raw,
            attribute,
            subject: ptr::from_ref(&**subject),
        }
    }
}

/// A directory whose `N` files are about a `T`. It goes when this is dropped.
///
/// # Examples
///
/// ```ignore
/// static ATTRIBUTES: [Attribute<Mutex<u32>>; 1] =
///     [Attribute::read_only(c_str!("count"), |count, page| writeln!(page, "{}", count.lock()))];
///
/// let directory = Directory::create(c_str!("counter"), &parent)?;
/// let directory = SubjectDirectory::fill(directory, count, &ATTRIBUTES)?;
/// ```
// The fields are dropped in this order: when the directory has gone, no file is in use any more,
// and the subject is no longer pointed at.
pub(crate) struct SubjectDirectory<T: 'static, const N: usize> {
    directory: Directory,
    files: KBox<[File<T>; N]>,
    subject: Arc<T>,
}

// SAFETY: The raw pointers in `File` are to a `T` that may be shared and dropped by any task, and
// what they point at is owned by the same directory.
unsafe impl<T: Send + Sync, const N: usize> Send for SubjectDirectory<T, N> {}

// SAFETY: As above, and no method changes anything.
unsafe impl<T: Send + Sync, const N: usize> Sync for SubjectDirectory<T, N> {}

impl<T: Send + Sync, const N: usize> SubjectDirectory<T, N> {
    /// Makes the files of a directory that has none. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, after which nothing is left of the directory.
    pub(crate) fn fill(
        directory: Directory,
        subject: Arc<T>,
        attributes: &'static [Attribute<T>; N],
    ) -> Result<Self> {
        let files = KBox::new(
            attributes
                .each_ref()
                .map(|attribute| File::new(attribute, &subject)),
            GFP_KERNEL,
        )?;
        // Put together before the first file is made, so that an error below removes all files before what they
        // point at is freed.
        let this = Self {
            directory,
            files,
            subject,
        };
        for file in this.files.iter() {
            // INVARIANT: `this` owns the box that the file is in and a reference to the subject,
            // and drops both after the directory.
            // SAFETY: The kobject is in sysfs. The file is in memory that stays where it is and
            // outlives the directory, as the order of the fields has it.
            to_result(unsafe {
                bindings::sysfs_create_file_ns(this.directory.as_raw(), &file.raw.attr, ptr::null())
            })?;
        }
        Ok(this)
    }

    /// The directory itself.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What the files are about.
    pub(crate) fn subject(&self) -> &Arc<T> {
        &self.subject
    }
}

/// The file that a C attribute is part of.
///
/// # Safety
///
/// `attr` must be the `raw` field of a `File<T>` whose directory is not removed during `'a`.
unsafe fn file<'a, T>(attr: *const bindings::kobj_attribute) -> &'a File<T> {
    const { assert!(offset_of!(File<T>, raw) == 0) };
    // SAFETY: `raw` is the first field, and the caller promises the rest.
    unsafe { &*attr.cast() }
}

/// # Safety
///
/// Only sysfs calls it: with the attribute of a `File<T>`, with a page to write to, and before
/// the removal of the directory is over.
unsafe extern "C" fn show_raw<T: Send + Sync + 'static>(
    _kobj: *mut bindings::kobject,
    attr: *mut bindings::kobj_attribute,
    buf: *mut ffi::c_char,
) -> isize {
    // SAFETY: The removal of the directory waits for this call.
    let file = unsafe { file::<T>(attr) };
    // SAFETY: sysfs passes a page, zeroed, that nobody else uses meanwhile.
    let mut page = Text::new(unsafe { slice::from_raw_parts_mut(buf.cast(), PAGE_SIZE - 1) });
    // SAFETY: By the type invariant the subject is valid while the directory is there.
    match (file.attribute.show)(unsafe { &*file.subject }, &mut page) {
        Ok(()) => page.length() as isize,
        Err(fmt::Error) => EIO.to_errno() as isize,
    }
}

/// # Safety
///
/// Only sysfs calls it: with the attribute of a `File<T>`, with `count` bytes and a zero behind
/// them, and before the removal of the directory is over.
unsafe extern "C" fn store_raw<T: Send + Sync + 'static>(
    _kobj: *mut bindings::kobject,
    attr: *mut bindings::kobj_attribute,
    buf: *const ffi::c_char,
    count: usize,
) -> isize {
    // SAFETY: The removal of the directory waits for this call.
    let file = unsafe { file::<T>(attr) };
    // SAFETY: sysfs passes a buffer of its own, and ends it with a zero.
    let text = unsafe { CStr::from_char_ptr(buf) };
    let store = || {
        // SAFETY: By the type invariant the subject is valid while the directory is there.
        file.attribute.store.ok_or(EACCES)?(unsafe { &*file.subject }, text)
    };
    match store() {
        Ok(()) => count as isize,
        Err(error) => error.to_errno() as isize,
    }
}
