// SPDX-License-Identifier: GPL-2.0-only

//! Kernel objects: directories in sysfs.
//!
//! Only objects that the C side releases are wrapped. Their memory may outlive their directory and
//! even this module, and none of our code runs when it goes.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

#![allow(unsafe_code)]

use super::text::Text;
use core::{
    fmt::{
        self,
        Write as _, //
    },
    mem,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    bindings,
    c_str,
    error::to_result,
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

/// What a uevent says has happened to a kobject.
///
/// Mirrors the constants of `enum kobject_action`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Action {
    /// It is there, and complete.
    Add = bindings::kobject_action_KOBJ_ADD,
    /// It is not what it was.
    Change = bindings::kobject_action_KOBJ_CHANGE,
    /// It goes, or has gone.
    Remove = bindings::kobject_action_KOBJ_REMOVE,
}

/// A variable of a uevent: its name and its value.
pub(crate) type Variable<'a> = (&'a str, &'a dyn fmt::Display);

/// How many bytes the variables of a uevent can have.
const ENVIRONMENT: usize = 512;

/// How many variables a uevent can have.
const VARIABLES: usize = 8;

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

    /// Gives a kobject a name and a directory below `parent`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EEXIST` for a name that is taken, and `ENOENT` where the parent's directory has
    /// gone, both of which the C side logs. The kobject is freed then.
    ///
    /// # Safety
    ///
    /// `raw` must be to a zeroed kobject, at the beginning of memory from kmalloc that nobody else
    /// frees.
    pub(super) unsafe fn add(
        raw: NonNull<bindings::kobject>,
        name: &CStr,
        parent: &Kobject,
    ) -> Result<Self> {
        // SAFETY: The memory is valid, and zeroed. `fs_kobj` is always there, and of the type that
        // the C side frees, as memory of kmalloc's, when it is released. The name is terminated,
        // and copied. The parent is alive.
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
            // SAFETY: The kobject is initialised, and the only reference is ours.
            unsafe { bindings::kobject_put(raw.as_ptr()) };
            return Err(error);
        }
        // INVARIANT: The kobject has been added, and the reference is ours.
        Ok(Self(raw))
    }

    /// Where it is, from the mount point of sysfs on, with a slash at the beginning. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn path(&self) -> Result<KVec<u8>> {
        // SAFETY: By the type invariant the kobject is in sysfs, and with it are its parents.
        let raw = unsafe { bindings::kobject_get_path(self.0.as_ptr(), bindings::GFP_KERNEL) };
        if raw.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: What is returned is terminated.
        let text = unsafe { CStr::from_char_ptr(raw) };
        #[cfg(linux_6_12)]
        let text = text.as_bytes();
        #[cfg(not(linux_6_12))]
        let text = text.to_bytes();
        let mut path = KVec::new();
        let copied = path.extend_from_slice(text, GFP_KERNEL);
        // SAFETY: It is memory of kmalloc's, and ours.
        unsafe { bindings::kfree(raw.cast()) };
        copied?;
        Ok(path)
    }

    /// Wakes everybody who polls the file `name` of the directory. May sleep.
    pub(crate) fn notify(&self, name: &CStr) {
        // SAFETY: By the type invariant the kobject is in sysfs. The name is terminated.
        unsafe { bindings::sysfs_notify(self.0.as_ptr(), ptr::null(), name.as_char_ptr()) };
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

/// A directory whose name is the subsystem that uevents come from. See [`UeventSender`].
///
/// # Invariants
///
/// The pointer is to a kset that is in sysfs, and this owns a reference to it.
pub(crate) struct Set(NonNull<bindings::kset>);

// SAFETY: A kset may be used and given up by any task.
unsafe impl Send for Set {}

// SAFETY: A kset brings its own lock.
unsafe impl Sync for Set {}

impl Set {
    /// Makes a set below `parent`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also for a name that is taken: the C side tells no difference, but logs it.
    pub(crate) fn create(name: &CStr, parent: &Kobject) -> Result<Self> {
        // SAFETY: The name is terminated, and copied. The parent is alive. There may be no
        // operations.
        let raw = unsafe {
            bindings::kset_create_and_add(name.as_char_ptr(), ptr::null(), parent.as_raw())
        };
        // INVARIANT: A kset that is returned has been added, and the reference is ours.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }
}

impl Deref for Set {
    type Target = Kobject;

    fn deref(&self) -> &Kobject {
        // SAFETY: By the type invariant the kset is alive, and the layout of `Kobject` is that of
        // its kobject.
        unsafe { &*(&raw const (*self.0.as_ptr()).kobj).cast() }
    }
}

impl Drop for Set {
    /// Removes the directory. Who still sends its uevents keeps the memory.
    fn drop(&mut self) {
        // SAFETY: By the type invariant the kset is in sysfs, and the reference is ours.
        unsafe { bindings::kset_unregister(self.0.as_ptr()) };
    }
}

/// Sends the uevents of directories below one parent, by their names.
///
/// It is a kobject that stands in for theirs and never gets into sysfs itself. So uevents can be
/// sent later than what they tell of, and of directories that have gone. It has no parent either,
/// but a whole path for a name: the parent may go, too.
///
/// # Examples
///
/// ```ignore
/// let set = Set::create(c_str!("ours"), Kobject::fs())?;
/// let mut sender = UeventSender::new(&set, &parent)?;
/// sender.send("child", Action::Add, &[("COLOUR", &"red")])?;
/// ```
///
/// # Invariants
///
/// The pointer is to an initialised kobject that is not in sysfs and has no parent, whose only
/// reference is this. This owns a reference to its set.
pub(crate) struct UeventSender {
    kobject: NonNull<bindings::kobject>,
    /// The path of the parent, a slash, and room for a name and a zero.
    path: KVec<u8>,
    parent: usize,
}

// SAFETY: A kobject may be used and given up by any task.
unsafe impl Send for UeventSender {}

// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for UeventSender {}

/// The longest name of a directory whose uevents can be sent.
const NAME: usize = 31;

impl UeventSender {
    /// One for directories below `parent`, which is in sysfs; the name of the set is the subsystem.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(set: &Set, parent: &Directory) -> Result<Self> {
        let mut path = parent.path()?;
        path.push(b'/', GFP_KERNEL)?;
        let parent = path.len();
        path.extend_with(NAME + 1, 0, GFP_KERNEL)?;
        let raw = KBox::new(bindings::kobject::default(), GFP_KERNEL)?;
        let raw = NonNull::from(KBox::leak(raw));
        // SAFETY: The memory is zeroed. `fs_kobj` is always there, and of the type that the C side
        // frees, as memory of kmalloc's, when it is released. The set is alive.
        unsafe {
            bindings::kobject_init(raw.as_ptr(), (*bindings::fs_kobj).ktype);
            (*raw.as_ptr()).kset = set.0.as_ptr();
            bindings::kobject_get(set.as_raw());
        }
        // INVARIANT: It was initialised, and the reference was taken, here.
        Ok(Self {
            kobject: raw,
            path,
            parent,
        })
    }

    /// Sends a uevent of the directory `name`, with these variables besides those that every uevent
    /// has. May sleep.
    ///
    /// It reaches everybody who listens before this returns.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the name is longer than [`NAME`], or the variables are longer than
    /// [`ENVIRONMENT`] or more than [`VARIABLES`]; `ENOMEM`.
    pub(crate) fn send(
        &mut self,
        name: &str,
        action: Action,
        environment: &[Variable<'_>],
    ) -> Result {
        let mut buffer = [0; ENVIRONMENT];
        // With a null pointer at the end.
        let mut variables = [ptr::null_mut(); VARIABLES + 1];
        if environment.len() > VARIABLES {
            return Err(EINVAL);
        }
        let mut rest = &mut buffer[..];
        for ((name, value), variable) in environment.iter().zip(&mut variables) {
            let mut text = Text::new(rest);
            text.write_str(name)?;
            text.write_str("=")?;
            write!(text, "{value}\0")?;
            let length = text.length();
            let (text, behind) = mem::take(&mut rest).split_at_mut(length);
            *variable = text.as_mut_ptr().cast();
            rest = behind;
        }
        write!(Text::new(&mut self.path[self.parent..]), "{name}\0")?;
        let kobject = self.kobject.as_ptr();
        // SAFETY: By the type invariant the kobject is initialised, nobody else uses it, and its
        // set is alive; there are no others that it leads to. Its name ends with a zero, and is
        // taken away again before it changes. The slash at its beginning is what the C side puts
        // before it. The array ends with a null pointer, and the others are to texts that end with
        // a zero and are not changed meanwhile. All is copied.
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
        // the C side does not give up the set with it.
        unsafe {
            let set = &raw mut (*(*self.kobject.as_ptr()).kset).kobj;
            bindings::kobject_put(self.kobject.as_ptr());
            bindings::kobject_put(set);
        }
    }
}
