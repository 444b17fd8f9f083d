// SPDX-License-Identifier: GPL-2.0-only

//! The kernel crate's prelude, and other items that most files here use.

pub(crate) use kernel::{
    c_str,
    ffi::{
        c_char,
        c_int,
        c_long, //
    },
    new_mutex,
    new_spinlock,
    prelude::*,
    str::{
        CStr,
        CString, //
    },
    sync::{
        Arc,
        ArcBorrow,
        Mutex,
        SpinLock, //
    }, //
};
