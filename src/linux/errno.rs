// SPDX-License-Identifier: GPL-2.0-only

//! Error numbers that the kernel crate does not name on every supported kernel.
//!
//! C header: [`include/uapi/asm-generic/errno.h`](srctree/include/uapi/asm-generic/errno.h)

use super::prelude::*;
use kernel::{
    bindings,
    error::Error, //
};

/// An error number, which converts to an [`Error`].
#[derive(Clone, Copy)]
pub(crate) struct Errno(u32);

/// Address family not supported.
pub(crate) const EAFNOSUPPORT: Errno = Errno(bindings::EAFNOSUPPORT);
/// Shut down.
pub(crate) const ESHUTDOWN: Errno = Errno(bindings::ESHUTDOWN);
/// Stale handle.
pub(crate) const ESTALE: Errno = Errno(bindings::ESTALE);
/// Timed out.
pub(crate) const ETIMEDOUT: Errno = Errno(bindings::ETIMEDOUT);

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::from_errno(-(errno.0 as c_int))
    }
}
