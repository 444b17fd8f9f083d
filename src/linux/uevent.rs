// SPDX-License-Identifier: GPL-2.0-only

//! Uevents. No kernel crate wraps them.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`lib/kobject_uevent.c`](srctree/lib/kobject_uevent.c)

#![allow(unsafe_code)]

use super::{
    kobject::{
        Directory,
        Kset, //
    },
    prelude::*,
    text::Text, //
};
use core::{
    fmt::{
        self,
        Write as _, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::to_result, //
};

/// Mirrors `enum kobject_action`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Action {
    Add = bindings::kobject_action_KOBJ_ADD,
    Change = bindings::kobject_action_KOBJ_CHANGE,
    Remove = bindings::kobject_action_KOBJ_REMOVE,
}

/// A variable of a uevent: its name and its value.
pub(crate) type Variable<'a> = (&'a str, &'a dyn fmt::Display);

/// How many variables a uevent has, and the bytes that they may take.
const VARIABLES: usize = 4;
const ENVIRONMENT: usize = 512;

/// The longest name of a directory whose uevents can be sent.
const NAME: usize = 31;

/// Sends uevents of the directories in `parent`, by their names, also after they were removed.
///
/// The C side sends uevents of a kobject, and reads the path from its parents, which the removal of
/// its directory takes from it. So this has a kobject that never gets into sysfs, has no parent,
/// and is given a whole path for a name.
///
/// # Examples
///
/// ```ignore
/// let kset = Kset::create(c_str!("outer"), Kobject::fs())?;
/// let mut sender = UeventSender::new(&kset, &parent)?;
/// sender.send(&"child", Action::Add, variables)?;
/// ```
///
/// # Invariants
///
/// The pointer is to an initialised kobject that is not in sysfs, has no parent, and has no other
/// reference than this. Its kset is set, and this owns a reference to that.
pub(crate) struct UeventSender {
    kobject: NonNull<bindings::kobject>,
    /// The path of the parent, a slash, and space for a name and a NUL.
    path: KVec<u8>,
    parent_length: usize,
}

// SAFETY: Any task may use and release a kobject.
unsafe impl Send for UeventSender {}

// SAFETY: There are no methods on a shared reference.
unsafe impl Sync for UeventSender {}

impl UeventSender {
    /// A sender for directories in `parent`; the name of the kset is the subsystem. May sleep.
    /// Errors: `ENOMEM`.
    pub(crate) fn new(kset: &Kset, parent: &Directory) -> Result<Self> {
        let mut path = parent.path()?;
        path.push(b'/', GFP_KERNEL)?;
        let parent_length = path.len();
        path.extend_with(NAME + 1, 0, GFP_KERNEL)?;
        let raw = KBox::new(bindings::kobject::default(), GFP_KERNEL)?;
        let raw = NonNull::from(KBox::leak(raw));
        // SAFETY: The kobject is zeroed. `fs_kobj` always has `dynamic_kobj_ktype`, which frees it
        // as a kmalloc allocation. The kset is alive.
        unsafe {
            bindings::kobject_init(raw.as_ptr(), (*bindings::fs_kobj).ktype);
            (*raw.as_ptr()).kset = kset.as_raw_kset();
            bindings::kobject_get(kset.as_raw());
        }
        // INVARIANT: The kobject was initialised, and the reference to the kset taken, just now.
        Ok(Self {
            kobject: raw,
            path,
            parent_length,
        })
    }

    /// Sends a uevent of the directory `name`, with these variables and those of every uevent.
    ///
    /// Sleeps, and waits for other tasks that send uevents. All listeners have been served when it
    /// returns.
    /// Errors: `EINVAL` if the name is longer than [`NAME`], or the variables than [`ENVIRONMENT`];
    /// `ENOMEM`, or `ENOENT` if there was no memory for the path. A listener whose buffer is full
    /// is no error.
    pub(crate) fn send(
        &mut self,
        name: &dyn fmt::Display,
        action: Action,
        environment: [Variable<'_>; VARIABLES],
    ) -> Result {
        let mut buffer = [0; ENVIRONMENT];
        let mut text = Text::new(&mut buffer);
        for (name, value) in environment {
            write!(text, "{name}={value}\0")?;
        }
        // A null pointer terminates it.
        let mut variables = [ptr::null_mut(); VARIABLES + 1];
        let texts = buffer.split_inclusive_mut(|byte| *byte == 0);
        for (variable, text) in variables[..VARIABLES].iter_mut().zip(texts) {
            *variable = text.as_mut_ptr().cast();
        }
        write!(Text::new(&mut self.path[self.parent_length..]), "{name}\0")?;
        let kobject = self.kobject.as_ptr();
        // SAFETY: By the type invariant the kobject is initialised, ours alone, has no parent, and
        // its kset is alive. Its name is NUL-terminated, and taken away before it changes; the C
        // side prepends the slash that is left out. The variables are NUL-terminated and their
        // array ends with a null pointer. The C side copies all of them.
        to_result(unsafe {
            (*kobject).name = self.path[1..].as_ptr().cast();
            let result =
                bindings::kobject_uevent_env(kobject, action as u32, variables.as_mut_ptr());
            (*kobject).name = ptr::null();
            result
        })
    }
}

impl Drop for UeventSender {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the references are ours. As the kobject is not in sysfs,
        // its release does not put the kset.
        unsafe {
            let kset = &raw mut (*(*self.kobject.as_ptr()).kset).kobj;
            bindings::kobject_put(self.kobject.as_ptr());
            bindings::kobject_put(kset);
        }
    }
}
