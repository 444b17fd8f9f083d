# SPDX-License-Identifier: GPL-2.0-only
"""`scoutfs-fenced ack`: an administrator's word that a host is off, or a mount fenced.

`ack RID` answers a pending request. The request's files are opened before the administrator is
asked, so the answer never reaches a later request for the same rid.

`ack RID --for 15m` and `ack --host HOST` write an acknowledgement, from which the agent on this
host answers requests as long as it holds. It may be given before there is a request, after one has
failed, and on a host that does not lead yet.

The log names the login that gave or withdrew it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from scoutfs_fenced import configuration
from scoutfs_fenced.acknowledgements import (
    add_acknowledgement,
    new_acknowledgement,
    withdraw_acknowledgements,
)
from scoutfs_fenced.addresses import is_own, own_addresses, parse_address
from scoutfs_fenced.configuration import Configuration, ConfigurationError, parse_span
from scoutfs_fenced.mounts import read_mounts
from scoutfs_fenced.people import Refused, confirm, log_and_print, who
from scoutfs_fenced.request import (
    DEFAULT_LEADER_TIMEOUT,
    GONE,
    UNKNOWN_ADDRESSES,
    Request,
    RequestFiles,
    find_requests,
    read_outcome,
    read_request,
)
from scoutfs_fenced.statefile import StateError, state_directory

WARNING = """\
If this host is not off, or if it comes back and writes, the filesystem is damaged beyond repair.
Say so only if you have seen for yourself that it is off.
"""

# How long an acknowledgement for a host holds by default, and the longest that any may hold.
DEFAULT_SECONDS = 15 * 60.0
LONGEST_SECONDS = 86400.0


def ask_and_acknowledge(
    sysfs: str,
    *,
    rid: str | None,
    host: str | None,
    mount: str | None,
    span: str | None,
    withdraw: bool,
) -> int:
    """Asks the administrator, and passes the answer on; returns the exit status."""
    try:
        if (rid is None) == (host is None):
            raise Refused("say of which mount or host: ack RID, or ack --host HOST")
        if rid is not None:
            rid = _parse(rid)
        if withdraw:
            _withdraw(rid, host)
        elif host is not None:
            _acknowledge_host(host, _seconds(span or f"{DEFAULT_SECONDS:g}"))
        elif rid is not None:
            _acknowledge_rid(sysfs, rid, mount, _seconds(span) if span else None)
    except Refused as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(rid: str) -> str:
    """A rid as the kernel writes it."""
    if not re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", rid):
        raise Refused(f"a rid has up to 16 hexadecimal digits, '{rid}' has something else")
    return f"{int(rid, 16):016x}"


def _seconds(span: str) -> float:
    try:
        seconds = sum(map(parse_span, span.split())) if span.strip() else 0
    except ValueError:
        seconds = 0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise Refused(f"--for is a span of up to 24h, as in 15m or 1h 30m, not '{span}'")
    return seconds


# Acknowledgements that hold for some time.


def _acknowledge_host(host: str, seconds: float) -> None:
    addresses = resolve_host(host)
    own = own_addresses()
    if any(is_own(parse_address(address), own) for address in addresses):
        raise Refused(f"{host} is this host, which is not off")
    until = _until(seconds)
    print(f"The host         {host}")
    print(f"at the addresses {', '.join(addresses)}")
    print(f"is off until     {until}, and does not come back before.")
    print("Until then, every request for one of its mounts is answered on this host with: fenced.")
    print(f"\n{WARNING}")
    confirm("If it is off", host)
    _give(f"host {host}", "", addresses, seconds)


def resolve_host(host: str) -> list[str]:
    """The addresses of a host of the hosts file, or the given address. Raises Refused."""
    with suppress(ValueError):
        address = parse_address(host)
        if address.is_unspecified or address.is_multicast:
            raise Refused(f"{host} is not the address of one host")
        return [str(address)]
    try:
        settings = _read_configuration()
    except ConfigurationError as error:
        raise Refused(f"{host} is not an address, and {error}") from error
    found = settings.hosts.by_name(host)
    if found is None:
        raise Refused(f"{host} is not an address, and {settings.no_such_host()}")
    return [str(address) for address in found.addresses]


def _all_addresses(host: str) -> list[str]:
    """Like resolve_host, with all addresses that the hosts file has for the host of an address."""
    addresses = resolve_host(host)
    with suppress(ConfigurationError):
        known = _read_configuration().hosts.host(addresses[0])
        if known is not None:
            return [str(address) for address in known.addresses]
    return addresses


def _read_configuration() -> Configuration:
    return asyncio.run(configuration.read(configuration.chosen_path(), lambda _line: None))


def _give(subject: str, rid: str, addresses: Sequence[str], seconds: float) -> None:
    given = new_acknowledgement(subject, rid, addresses, who(), seconds)
    try:
        damage = add_acknowledgement(state_directory(), given)
    except OSError as error:
        raise Refused(f"nothing was acknowledged: {_why_not_kept(error)}") from error
    if damage:
        print(f"{damage}; what was acknowledged before does not hold any more")
    log_and_print(f"{given}, requests are answered with fenced", {"acknowledged_by": given.by})
    print(f"To take it back: scoutfs-fenced ack {_option(subject)} --withdraw")


def _withdraw(rid: str | None, host: str | None) -> None:
    """Withdraws what was acknowledged about a mount, or about a host by whatever name."""
    subject = f"rid {rid}" if host is None else f"host {host}"
    addresses, unknown = [], ""
    if host is not None:
        try:
            addresses = _all_addresses(host)
        except Refused as error:
            unknown = f"; {error}"
    try:
        taken = withdraw_acknowledgements(state_directory(), subject, addresses)
    except (StateError, OSError) as error:
        raise Refused(f"nothing was taken back: {_why_not_kept(error)}") from error
    if not taken:
        raise Refused(f"nothing that holds was said about {subject}{unknown}")
    for each in taken:
        log_and_print(f"{each}: taken back by {who()}", {"acknowledged_by": each.by})


def _option(subject: str) -> str:
    kind, _, name = subject.partition(" ")
    return f"--host {name}" if kind == "host" else name


def _until(seconds: float) -> str:
    return time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(time.time() + seconds))


def _why_not_kept(error: StateError | OSError) -> str:
    if isinstance(error, PermissionError):
        return "only root can; run this as root"
    return f"{error}"


# Pending requests.


def _acknowledge_rid(sysfs: str, rid: str, mount: str | None, seconds: float | None) -> None:
    if read_mounts(sysfs).has(rid):
        raise Refused(f"this host has the mount with the rid {rid}; unmount it here")
    found = _find(sysfs, rid, mount)
    pending = [each for each in found if read_outcome_or_gone(each) == "pending"]
    if seconds is not None and not pending:
        print(f"The mount with the rid {rid}")
        print(f"is fenced. Until {_until(seconds)}, requests for it are answered on this host so.")
        print(f"\n{WARNING}")
        confirm("If its host is off", rid)
        _give(f"rid {rid}", rid, (), seconds)
        return
    request = _choose(found, rid, mount)
    with _open(request) as files:
        _confirm(request)
        try:
            _finish(request, files)
        except Refused as error:
            if seconds is None:
                raise
            print(f"scoutfs-fenced: {error}", file=sys.stderr)
    if seconds is not None:
        _give(f"rid {rid}", rid, (), seconds)


def read_outcome_or_gone(request: Request) -> str:
    """The outcome of a request: pending, fenced, failed or gone."""
    try:
        return read_outcome(request.directory)
    except OSError:
        return "gone"


def _find(sysfs: str, rid: str, mount: str | None) -> list[Request]:
    """The requests for a rid."""
    found = []
    for directory, _inode in find_requests(sysfs):
        if os.path.basename(directory) == rid:
            with suppress(OSError, ValueError):
                found.append(read_request(directory, sysfs, DEFAULT_LEADER_TIMEOUT)[0])
    return [each for each in found if mount in (None, each.mount)]


def _choose(found: list[Request], rid: str, mount: str | None) -> Request:
    """The only request found; raises Refused for none or several."""
    if not found:
        where = f" of the mount {mount}" if mount is not None else ""
        raise Refused(
            f"there is no request for rid {rid}{where}; see: scoutfs-fenced status. "
            f"To answer one that comes: scoutfs-fenced ack {rid} --for 15m"
        )
    if len(found) > 1:
        mounts = ", ".join(sorted(request.mount for request in found))
        raise Refused(f"several mounts ask for rid {rid}; say which with --mount: {mounts}")
    return found[0]


def _open(request: Request) -> RequestFiles:
    """The files of a request that still waits for an answer."""
    try:
        files = RequestFiles(request)
        state = read_outcome(request.directory)
    except PermissionError as error:
        raise Refused("only root can say that a host is off; run this as root") from error
    except OSError as error:
        raise Refused(_why_lost(error)) from error
    if state != "pending":
        files.__exit__()
        raise Refused(
            f"the request for rid {request.rid} has been answered already: {state}. "
            f"To answer the next one: scoutfs-fenced ack {request.rid} --for 15m"
        )
    return files


def _confirm(request: Request) -> None:
    """Asks the administrator to type the address, or the rid if the address is unknown."""
    print(f"The mount with the rid {request.rid}")
    print(f"at the address         {request.address}")
    print(f"is to be fenced for    {request.reason}")
    print(f"by the leader at       {request.mount}")
    print(f"\n{WARNING}")
    known = request.address not in UNKNOWN_ADDRESSES
    confirm("If it is off", request.address if known else request.rid)


def _finish(request: Request, files: RequestFiles) -> None:
    """Answers the kernel, and logs it."""
    by = who()
    try:
        files.finish(True)
    except OSError as error:
        raise Refused(f"the kernel does not take it as fenced: {_why_lost(error)}") from error
    fields = {**request.fields(), "acknowledged_by": by, "result": "fenced"}
    log_and_print(f"fenced, by the word of {by}", fields)


def _why_lost(error: OSError) -> str:
    if error.errno in GONE:
        return "the request is gone"
    if error.errno == errno.ESTALE:
        return "the request has failed meanwhile"
    return f"{error.strerror}"
