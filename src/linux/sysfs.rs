// SPDX-License-Identifier: GPL-2.0-only

//! Files in sysfs that show and change a value.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/kobject.h`](srctree/include/linux/kobject.h)

#![allow(unsafe_code)]

use super::{
    kobject::{
        Directory,
        Kobject, //
    },
    text::Text, //
};
use core::{
    fmt,
    mem::{
        offset_of,
        MaybeUninit, //
    },
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
    page::PAGE_SIZE,
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// One file of each directory about a `T`: what sysfs knows of it comes first.
#[repr(C)]
pub(crate) struct Attribute<T: 'static> {
    raw: bindings::kobj_attribute,
    show: fn(&T, &mut Text<'_>) -> fmt::Result,
    store: Option<fn(ArcBorrow<'_, T>, &CStr) -> Result>,
}

// SAFETY: Nothing is changed, neither here nor by sysfs.
unsafe impl<T> Sync for Attribute<T> {}

impl<T: Send + Sync> Attribute<T> {
    /// A file that everybody may read (0444). `show` writes the value, up to one page of it; it
    /// may sleep.
    pub(crate) const fn read_only(
        name: &'static CStr,
        show: fn(&T, &mut Text<'_>) -> fmt::Result,
    ) -> Self {
        Self {
            raw: Self::raw(name, 0o444),
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
        store: fn(ArcBorrow<'_, T>, &CStr) -> Result,
    ) -> Self {
        Self {
            raw: Self::raw(name, 0o644),
            show,
            store: Some(store),
        }
    }

    const fn raw(name: &'static CStr, mode: bindings::umode_t) -> bindings::kobj_attribute {
        // SAFETY: A `kobj_attribute` may be all zero.
        let mut raw: bindings::kobj_attribute = unsafe { MaybeUninit::zeroed().assume_init() };
        // What as_char_ptr() returns, which is no const function on every kernel.
        raw.attr.name = ptr::from_ref(name).cast();
        raw.attr.mode = mode;
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
        raw
    }
}

/// The kobject of a directory about a `T`, and what it is about.
///
/// The C side frees it as a whole, for the kobject comes first.
///
/// # Invariants
///
/// While the directory is in sysfs, `subject` is that of an [`Arc`] that is not dropped.
#[repr(C)]
struct SubjectKobject<T> {
    kobject: bindings::kobject,
    subject: *const T,
}

/// A directory whose files are about a `T`. It goes when this is dropped.
///
/// # Examples
///
/// ```ignore
/// const ATTRIBUTES: [Attribute<Mutex<u32>>; 1] =
///     [Attribute::read_only(c_str!("count"), |count, page| writeln!(page, "{}", count.lock()))];
///
/// let directory = SubjectDirectory::create(c_str!("counter"), &parent, count, &ATTRIBUTES)?;
/// ```
///
/// # Invariants
///
/// The kobject of `directory` is that of a `SubjectKobject<T>`, whose subject is `_subject`.
// The fields are dropped in this order: when the directory has gone, no file is in use any more,
// and the subject is no longer pointed at.
pub(crate) struct SubjectDirectory<T> {
    directory: Directory,
    _subject: Arc<T>,
}

impl<T: Send + Sync> SubjectDirectory<T> {
    /// Makes a directory below `parent`, with all its files. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EEXIST` for a name that is taken, and `ENOENT` where the parent's directory has
    /// gone, both of which the C side logs. Nothing is left of the directory then.
    pub(crate) fn create(
        name: &CStr,
        parent: &Kobject,
        subject: Arc<T>,
        attributes: &'static [Attribute<T>],
    ) -> Result<Self> {
        let raw_subject = Arc::into_raw(subject);
        // SAFETY: This is the reference that was given up in the line above.
        let subject = unsafe { Arc::from_raw(raw_subject) };
        let kobject = KBox::new(
            SubjectKobject {
                kobject: bindings::kobject::default(),
                subject: raw_subject,
            },
            GFP_KERNEL,
        )?;
        const { assert!(offset_of!(SubjectKobject<T>, kobject) == 0) };
        let kobject = NonNull::from(KBox::leak(kobject)).cast();
        // SAFETY: The kobject is zeroed, and comes first in memory of kmalloc's that nobody else
        // frees.
        let directory = unsafe { Directory::add(kobject, name, parent) }?;
        // INVARIANT: The kobject was made above, with this subject.
        // Put together before the first file is made, so that an error below removes all files.
        let this = Self {
            directory,
            _subject: subject,
        };
        for attribute in attributes {
            // SAFETY: The kobject is in sysfs. The file is never freed.
            to_result(unsafe {
                bindings::sysfs_create_file_ns(
                    this.directory.as_raw(),
                    &attribute.raw.attr,
                    ptr::null(),
                )
            })?;
        }
        Ok(this)
    }

    /// The directory itself.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }
}

/// The file that a C attribute is part of.
///
/// # Safety
///
/// `attr` must be the `raw` field of an `Attribute<T>`.
unsafe fn attribute<T>(attr: *const bindings::kobj_attribute) -> &'static Attribute<T> {
    const { assert!(offset_of!(Attribute<T>, raw) == 0) };
    // SAFETY: `raw` is the first field, and files are never freed.
    unsafe { &*attr.cast() }
}

/// What a directory is about.
///
/// # Safety
///
/// `kobj` must be that of a `SubjectKobject<T>` whose directory is not removed during `'a`.
unsafe fn subject<'a, T>(kobj: *const bindings::kobject) -> ArcBorrow<'a, T> {
    // SAFETY: The kobject is the first field. By the type invariant the subject is that of an `Arc`
    // which is there as long as the directory.
    unsafe { ArcBorrow::from_raw((*kobj.cast::<SubjectKobject<T>>()).subject) }
}

/// # Safety
///
/// Only sysfs calls it: with a kobject of a `SubjectDirectory<T>`, with an attribute of its files,
/// with a page to write to, and before the removal of the directory is over.
unsafe extern "C" fn show_raw<T: Send + Sync + 'static>(
    kobj: *mut bindings::kobject,
    attr: *mut bindings::kobj_attribute,
    buf: *mut ffi::c_char,
) -> isize {
    // SAFETY: The caller passes an attribute of the directory's files.
    let attribute = unsafe { attribute::<T>(attr) };
    // SAFETY: The removal of the directory waits for this call.
    let subject = unsafe { subject::<T>(kobj) };
    // SAFETY: sysfs passes a page, zeroed, that nobody else uses meanwhile.
    let mut page = Text::new(unsafe { slice::from_raw_parts_mut(buf.cast(), PAGE_SIZE - 1) });
    match (attribute.show)(&subject, &mut page) {
        Ok(()) => page.length() as isize,
        Err(fmt::Error) => EIO.to_errno() as isize,
    }
}

/// # Safety
///
/// Only sysfs calls it: with a kobject of a `SubjectDirectory<T>`, with an attribute of its files,
/// with `count` bytes and a zero behind them, and before the removal of the directory is over.
unsafe extern "C" fn store_raw<T: Send + Sync + 'static>(
    kobj: *mut bindings::kobject,
    attr: *mut bindings::kobj_attribute,
    buf: *const ffi::c_char,
    count: usize,
) -> isize {
    // SAFETY: The caller passes an attribute of the directory's files.
    let attribute = unsafe { attribute::<T>(attr) };
    // SAFETY: The removal of the directory waits for this call.
    let subject = unsafe { subject::<T>(kobj) };
    // SAFETY: sysfs passes a buffer of its own, and ends it with a zero.
    let text = unsafe { CStr::from_char_ptr(buf) };
    let store = || attribute.store.ok_or(EACCES)?(subject, text);
    match store() {
        Ok(()) => count as isize,
        Err(error) => error.to_errno() as isize,
    }
}
