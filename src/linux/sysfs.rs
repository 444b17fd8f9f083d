// SPDX-License-Identifier: GPL-2.0-only

//! Attributes: files in sysfs that show and store a value. No kernel crate wraps them.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/kobject.h`](srctree/include/linux/kobject.h)

#![allow(unsafe_code)]

use super::{
    kobject::{
        Directory,
        Kobject, //
    },
    prelude::*,
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
    page::PAGE_SIZE, //
};

/// Linux 7.3 has the callbacks in unions with callbacks that promise not to write to it, and bindgen
/// names such fields differently. src/glue.c compares the layouts. The name is C's, as kernels with
/// control-flow integrity compare the callbacks' types by it.
#[allow(non_camel_case_types)]
#[repr(C)]
struct kobj_attribute {
    attr: bindings::attribute,
    show:
        Option<unsafe extern "C" fn(*mut bindings::kobject, *mut Self, *mut ffi::c_char) -> isize>,
    store: Option<
        unsafe extern "C" fn(*mut bindings::kobject, *mut Self, *const ffi::c_char, usize) -> isize,
    >,
}

/// A file of every [`AttributeDirectory<T>`].
///
/// # Invariants
///
/// The callbacks in `raw` are `show_raw::<T>` and `store_raw::<T>`.
#[repr(C)]
pub(crate) struct Attribute<T: 'static> {
    raw: kobj_attribute,
    show: fn(&T, &mut Text<'_>) -> fmt::Result,
    store: fn(ArcBorrow<'_, T>, &CStr) -> Result,
}

// SAFETY: Neither this nor the C side ever writes to an attribute.
unsafe impl<T> Sync for Attribute<T> {}

impl<T: Send + Sync> Attribute<T> {
    /// A file of mode 0444. `show` writes at most one page, less a byte; it may sleep.
    pub(crate) const fn read_only(
        name: &'static CStr,
        show: fn(&T, &mut Text<'_>) -> fmt::Result,
    ) -> Self {
        Self::new(name, 0o444, show, |_, _| Err(EACCES))
    }

    /// A file of mode 0644. `store` gets at most one page; it may sleep.
    ///
    /// Both callbacks hold a kernfs active reference, which the removal of the directory drains: a
    /// lock that is held there must not be taken here.
    pub(crate) const fn read_write(
        name: &'static CStr,
        show: fn(&T, &mut Text<'_>) -> fmt::Result,
        store: fn(ArcBorrow<'_, T>, &CStr) -> Result,
    ) -> Self {
        Self::new(name, 0o644, show, store)
    }

    const fn new(
        name: &'static CStr,
        mode: bindings::umode_t,
        show: fn(&T, &mut Text<'_>) -> fmt::Result,
        store: fn(ArcBorrow<'_, T>, &CStr) -> Result,
    ) -> Self {
        // SAFETY: All zero is a valid `attribute`.
        let mut attr: bindings::attribute = unsafe { MaybeUninit::zeroed().assume_init() };
        // Like as_char_ptr(), which is no const function on every kernel.
        attr.name = ptr::from_ref(name).cast();
        attr.mode = mode;
        let raw = kobj_attribute {
            attr,
            show: Some(show_raw::<T>),
            store: Some(store_raw::<T>),
        };
        // INVARIANT: The callbacks were set just now.
        Self { raw, show, store }
    }

    /// The C attribute, by a pointer that is derived from the whole of `self`.
    fn as_raw(&'static self) -> *const bindings::attribute {
        const { assert!(offset_of!(Self, raw) == 0) };
        const { assert!(offset_of!(kobj_attribute, attr) == 0) };
        ptr::from_ref(self).cast()
    }
}

/// A kobject with a pointer to the `T` that its files show. The C side frees it as a whole.
///
/// # Invariants
///
/// While the directory is in sysfs, `data` is valid and from [`Arc::into_raw`].
#[repr(C)]
struct AttributeKobject<T> {
    kobject: bindings::kobject,
    data: *const T,
}

/// A directory whose files show and store values of a `T`. It is removed when this is dropped,
/// which drains the callbacks; see [`Directory`].
///
/// # Examples
///
/// ```ignore
/// static ATTRIBUTES: [Attribute<Mutex<u32>>; 1] =
///     [Attribute::read_only(c_str!("count"), |count, page| writeln!(page, "{}", count.lock()))];
///
/// let directory = AttributeDirectory::create(c_str!("counter"), &parent, count, &ATTRIBUTES)?;
/// ```
///
/// # Invariants
///
/// The kobject of `directory` is that of an `AttributeKobject<T>` whose data is that of `_data`.
// The fields are dropped in this order: no callback runs any more when `_data` is dropped.
pub(crate) struct AttributeDirectory<T> {
    directory: Directory,
    _data: Arc<T>,
}

impl<T: Send + Sync> AttributeDirectory<T> {
    /// Creates a directory with all its files below `parent`. May sleep.
    /// Errors: `ENOMEM`; `EEXIST` if the name is taken, and `ENOENT` if the parent's directory has
    /// been removed, both of which the C side logs. Nothing is left of the directory then.
    pub(crate) fn create(
        name: &CStr,
        parent: &Kobject,
        data: Arc<T>,
        attributes: &'static [Attribute<T>],
    ) -> Result<Self> {
        let raw_data = Arc::into_raw(data);
        // SAFETY: This is the reference from the line above.
        let data = unsafe { Arc::from_raw(raw_data) };
        let kobject = KBox::new(
            AttributeKobject {
                kobject: bindings::kobject::default(),
                data: raw_data,
            },
            GFP_KERNEL,
        )?;
        const { assert!(offset_of!(AttributeKobject<T>, kobject) == 0) };
        let kobject = NonNull::from(KBox::leak(kobject)).cast();
        // SAFETY: The kobject is zeroed, and at the beginning of a kmalloc allocation that is given
        // up here.
        let directory = unsafe { Directory::add(kobject, name, parent) }?;
        // INVARIANT: The kobject was made above, with this data.
        // Made before the files, so that an error below removes them all.
        let this = Self {
            directory,
            _data: data,
        };
        for attribute in attributes {
            // SAFETY: The kobject is in sysfs. The attribute is static.
            to_result(unsafe {
                bindings::sysfs_create_file_ns(
                    this.directory.as_raw(),
                    attribute.as_raw(),
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

/// The [`Attribute`] of a callback.
///
/// # Safety
///
/// `attr` must be from [`Attribute::<T>::as_raw`](Attribute).
unsafe fn attribute<T>(attr: *const kobj_attribute) -> &'static Attribute<T> {
    // SAFETY: `raw` is the first field, the pointer is derived from the whole, and all are static.
    unsafe { &*attr.cast() }
}

/// The data of a callback.
///
/// # Safety
///
/// `kobj` must be that of an [`AttributeDirectory<T>`] that is not removed during `'a`.
unsafe fn data<'a, T>(kobj: *const bindings::kobject) -> ArcBorrow<'a, T> {
    // SAFETY: By the type invariants the kobject is the first field of an `AttributeKobject<T>`,
    // whose data is from `Arc::into_raw` and outlives the directory.
    unsafe { ArcBorrow::from_raw((*kobj.cast::<AttributeKobject<T>>()).data) }
}

/// # Safety
///
/// Only sysfs calls this: for a file of an `AttributeDirectory<T>`, with a page to write to, and
/// with an active reference, which the removal of the directory drains.
unsafe extern "C" fn show_raw<T: Send + Sync + 'static>(
    kobj: *mut bindings::kobject,
    attr: *mut kobj_attribute,
    buf: *mut ffi::c_char,
) -> isize {
    // SAFETY: The attribute is that of a file of an `AttributeDirectory<T>`.
    let attribute = unsafe { attribute::<T>(attr) };
    // SAFETY: The active reference keeps the directory.
    let data = unsafe { data::<T>(kobj) };
    // SAFETY: sysfs passes a zeroed page of its own.
    let mut page = Text::new(unsafe { slice::from_raw_parts_mut(buf.cast(), PAGE_SIZE - 1) });
    match (attribute.show)(&data, &mut page) {
        Ok(()) => page.written().len() as isize,
        Err(fmt::Error) => EIO.to_errno() as isize,
    }
}

/// # Safety
///
/// Only sysfs calls this: for a file of an `AttributeDirectory<T>`, with `count` bytes and a NUL,
/// and with an active reference, which the removal of the directory drains.
unsafe extern "C" fn store_raw<T: Send + Sync + 'static>(
    kobj: *mut bindings::kobject,
    attr: *mut kobj_attribute,
    buf: *const ffi::c_char,
    count: usize,
) -> isize {
    // SAFETY: The attribute is that of a file of an `AttributeDirectory<T>`.
    let attribute = unsafe { attribute::<T>(attr) };
    // SAFETY: The active reference keeps the directory.
    let data = unsafe { data::<T>(kobj) };
    // SAFETY: sysfs passes a NUL-terminated buffer of its own.
    let text = unsafe { CStr::from_char_ptr(buf) };
    match (attribute.store)(data, text) {
        Ok(()) => count as isize,
        Err(error) => error.to_errno() as isize,
    }
}
