// SPDX-License-Identifier: GPL-2.0-only

//! Internet addresses as C code passes and prints them.
//!
//! `core::net` prints some IPv6 addresses, as ISATAP's, in another way than the kernel.
//!
//! C headers: [`include/linux/socket.h`](srctree/include/linux/socket.h),
//! [`include/uapi/linux/in6.h`](srctree/include/uapi/linux/in6.h)

#![allow(unsafe_code)]

use super::{
    header,
    prelude::*, //
};
use core::{
    fmt,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr, //
    }, //
};
use kernel::bindings;

/// The address in a `sockaddr`, without its port. Any context.
/// Errors: `EINVAL` for a null pointer; `EAFNOSUPPORT` unless it is IPv4 or IPv6.
///
/// # Safety
///
/// `addr` must be null or valid for reads of the size that its family implies; it need not be
/// aligned.
pub(crate) unsafe fn address(addr: *const bindings::__kernel_sockaddr_storage) -> Result<IpAddr> {
    if addr.is_null() {
        return Err(EINVAL);
    }
    let family: *const bindings::__kernel_sa_family_t = addr.cast();
    // SAFETY: Every `sockaddr` begins with its family.
    match u32::from(unsafe { family.read_unaligned() }) {
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
    // In network order the bytes lie in memory as they are written.
    Ipv4Addr::from(addr.to_ne_bytes())
}

/// Formats an address as the kernel's `%pISc` does.
pub(crate) struct Display(pub(crate) IpAddr);

impl fmt::Display for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match self.0 {
            IpAddr::V4(address) => return address.fmt(f),
            IpAddr::V6(address) => address.octets(),
        };
        // Eight groups of four digits, seven colons and a NUL.
        let mut text = [0; 8 * 5];
        // SAFETY: The address has 16 bytes, and the buffer the length that is passed.
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

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::{
        errno::EAFNOSUPPORT,
        kunit::{
            check,
            check_eq,
            suite, //
        }, //
    };
    use core::ptr;

    suite!(
        scoutfs_fence_inet,
        [
            ipv4_comes_in_network_order,
            sockets_addresses_are_taken_apart,
            other_families_are_refused,
            addresses_are_printed_as_the_kernel_does,
        ]
    );

    fn ipv4_comes_in_network_order() {
        let address = u32::from_be_bytes([192, 0, 2, 1]).to_be();
        check_eq!(ipv4(address), Ipv4Addr::new(192, 0, 2, 1));
        check_eq!(ipv4(0), Ipv4Addr::UNSPECIFIED);
    }

    /// A `sockaddr` of this family, and the bytes that follow in memory.
    fn storage(family: u32, rest: &[u8]) -> [u64; 16] {
        let mut words = [0; 16];
        // SAFETY: The words have room for the longest address.
        unsafe {
            words.as_mut_ptr().cast::<u16>().write(family as u16);
            let target = words.as_mut_ptr().cast::<u8>().add(2);
            ptr::copy_nonoverlapping(rest.as_ptr(), target, rest.len().min(126));
        }
        words
    }

    fn address_of(words: &[u64; 16]) -> Result<IpAddr> {
        // SAFETY: The words are as long as the longest address.
        unsafe { address(words.as_ptr().cast()) }
    }

    fn sockets_addresses_are_taken_apart() {
        // The port, then the address.
        let words = storage(bindings::AF_INET, &[1, 2, 192, 0, 2, 9, 8, 7]);
        check_eq!(address_of(&words), Ok(Ipv4Addr::new(192, 0, 2, 9).into()));
        // The port, the flow, the address, the scope.
        let mut rest = [0xee; 26];
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
        rest[6..22].copy_from_slice(&address.octets());
        let words = storage(bindings::AF_INET6, &rest);
        check_eq!(address_of(&words), Ok(address.into()));
    }

    fn other_families_are_refused() {
        for family in [bindings::AF_UNSPEC, bindings::AF_UNIX, 0xffff] {
            check_eq!(
                address_of(&storage(family, &[0; 126])),
                Err(EAFNOSUPPORT.into())
            );
        }
        // SAFETY: The address is null.
        check_eq!(unsafe { address(ptr::null()) }, Err(EINVAL));
    }

    fn addresses_are_printed_as_the_kernel_does() {
        for (address, text) in [
            (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)), "10.0.0.7"),
            (Ipv6Addr::UNSPECIFIED.into(), "::"),
            (Ipv6Addr::LOCALHOST.into(), "::1"),
            (
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 1, 0, 0, 0xa).into(),
                "2001:db8::1:0:0:a",
            ),
            (
                Ipv6Addr::from([0xff; 16]).into(),
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            let display = Display(address);
            let printed = CString::try_from_fmt(format_args!("{display}"));
            check!(printed.is_ok_and(|printed| printed.to_str() == Ok(text)));
        }
    }
}
