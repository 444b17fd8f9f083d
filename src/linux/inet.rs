// SPDX-License-Identifier: GPL-2.0-only

//! Internet addresses as C code passes and prints them.
//!
//! C headers: [`include/linux/socket.h`](srctree/include/linux/socket.h),
//! [`include/uapi/linux/in6.h`](srctree/include/uapi/linux/in6.h)

#![allow(unsafe_code)]

use super::header;
use core::{
    fmt,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr, //
    },
};
use kernel::{
    bindings,
    prelude::*, //
};

/// The address of a socket, without its port.
///
/// Any context.
///
/// # Errors
///
/// `EINVAL` for a null pointer; `EAFNOSUPPORT` where it is neither IPv4 nor IPv6.
///
/// # Safety
///
/// `addr` must be null, or valid for reading what its family says.
pub(crate) unsafe fn address(addr: *const bindings::__kernel_sockaddr_storage) -> Result<IpAddr> {
    if addr.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: Every socket address begins with its family.
    match u32::from(unsafe { addr.cast::<bindings::__kernel_sa_family_t>().read() }) {
        bindings::AF_INET => {
            // SAFETY: The family says that this is a `sockaddr_in`.
            let addr = unsafe { addr.cast::<header::sockaddr_in>().read_unaligned() };
            Ok(ipv4(addr.sin_addr.s_addr).into())
        }
        bindings::AF_INET6 => {
            // SAFETY: The family says that this is a `sockaddr_in6`.
            let addr = unsafe { addr.cast::<bindings::sockaddr_in6>().read_unaligned() };
            // SAFETY: All views of the address are of the same 16 bytes.
            Ok(Ipv6Addr::from(unsafe { addr.sin6_addr.in6_u.u6_addr8 }).into())
        }
        _ => Err(super::errno::EAFNOSUPPORT.into()),
    }
}

/// An IPv4 address in network order, as C code passes it.
pub(crate) fn ipv4(addr: bindings::__be32) -> Ipv4Addr {
    // In network order the bytes stand in memory as they are written.
    Ipv4Addr::from(addr.to_ne_bytes())
}

/// Prints an address as the kernel's `%pISc` does.
pub(crate) struct Display(pub(crate) IpAddr);

impl fmt::Display for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match self.0 {
            IpAddr::V4(address) => return write!(f, "{address}"),
            IpAddr::V6(address) => address.octets(),
        };
        // Eight groups of four digits, their colons, and the zero at the end.
        let mut text = [0; 8 * 5];
        // SAFETY: The address has the 16 bytes, and the text the length, that the function is
        // told of.
        let length = unsafe {
            header::scoutfs_fence_glue_print_ipv6(
                text.as_mut_ptr().cast(),
                text.len(),
                address.as_ptr(),
            )
        };
        let text = text.get(..length as usize).ok_or(fmt::Error)?;
        f.write_str(core::str::from_utf8(text).map_err(|_| fmt::Error)?)
    }
}
