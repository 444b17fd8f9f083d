# SPDX-License-Identifier: GPL-2.0-only
"""Addresses of hosts: their canonical form, and which are this host's own.

C headers: linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

# From linux/netlink.h, linux/rtnetlink.h and linux/if_addr.h.
_NETLINK_ROUTE = 0
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_IFA_ADDRESS = 1
_IFA_LOCAL = 2

# struct nlmsghdr, struct ifaddrmsg and struct rtattr, in the host's byte order.
_HEADER = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")

_SECONDS_TO_ANSWER = 5.0


def parse_address(text: str) -> Address:
    """Parses an address into its canonical form; raises ValueError.

    An IPv4 address mapped into IPv6 becomes the IPv4 address.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def own_addresses() -> set[Address]:
    """The addresses that this host's interfaces have now; raises OSError.

    Asks the kernel, and waits for no other host. Addresses come and go, so nothing is cached. See
    is_own() for loopback addresses, most of which no interface has.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as netlink:
        netlink.settimeout(_SECONDS_TO_ANSWER)
        netlink.bind((0, 0))
        length = _HEADER.size + _MESSAGE.size
        netlink.send(
            _HEADER.pack(length, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
            + _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        )
        own: set[Address] = set()
        while True:
            for kind, content in _parts(netlink.recv(1 << 16), _HEADER):
                if kind == _NLMSG_DONE:
                    return own
                if kind == _NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", content)
                    raise OSError(-number, "the kernel does not tell this host's addresses")
                if kind == _RTM_NEWADDR:
                    own |= _addresses(content)


def is_own(address: Address, own: AbstractSet[Address]) -> bool:
    """Whether an address is one of `own`, which own_addresses() returned, or a loopback address."""
    return address.is_loopback or address in own


def _addresses(content: bytes) -> set[Address]:
    """The addresses in one message; for a point-to-point link, only this end's."""
    found = dict(_parts(content[_MESSAGE.size :], _ATTRIBUTE))
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    return {ipaddress.ip_address(packed)} if packed else set()


def _parts(data: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Type and content of each message or attribute: all begin with a length, and are aligned."""
    while len(data) >= header.size:
        if header is _HEADER:
            length, kind, *_ = header.unpack_from(data)
        else:
            length, kind = header.unpack_from(data)
        if length < header.size:
            return
        yield kind, data[header.size : length]
        data = data[(length + 3) & ~3 :]
