# SPDX-License-Identifier: GPL-2.0-only
"""Decides which host is fenced when, and answers the kernel.

All requests for one host share one Fencing, which makes attempts until none of them is pending.
Each request is answered separately: with `fenced` as soon as there is a proof for it, with `error`
before its caller gives up. An attempt outlives the requests that it was started for: the next
leader requests the same mount, and its request joins.

`fenced` is written in one place, _fenced(), for one of four reasons:

  1. _proven(): an attempt has proven that the host is off. Attempt.answers() decides which requests
     the proof covers: those whose mount existed at the time of the proof. A mount exists before
     its fencing is requested, so this includes requests made by that time, and requests for a rid
     that was pending when the attempt began. A later request may be for the host's next mount, and
     needs another attempt. A command that fences one mount answers only for that mount's rid.
     The request's address must be one that the attempt's host had when the attempt began, and that
     the hosts file still gives to a host of that name with the same devices: it may have been
     corrected meanwhile.

  2. _known(), from a record: this agent, or one before it, has recorded that the rid was proven
     fenced at this address, or at another one that the hosts file gives to the same host, which has
     the devices that it had then. No mount gets a rid that was used before.

  3. _known(), from an administrator's acknowledgement, which was confirmed and is logged with the
     login. It counts until it expires or is withdrawn.

  4. _known(), because the mount was one of this host's and is gone: its address is this host's, by
     the kernel or by the hosts file, and sysfs, which shows every mount that can write (mounts.py),
     does not show it. The address alone is no proof: it may have moved here from a host that still
     writes. So in addition the agent's own record of this host's mounts must include the mount, or
     the address must be a loopback address, or one that the hosts file gives to a host all of whose
     addresses are this host's, while this host has no address of any other host of the file.

None of these answers for a mount that sysfs shows on this host, which is checked before and after
each attempt. No device fences an address of this host.

An answer is written only to files opened through a directory with the request's inode, so it never
reaches another request.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Literal

from scoutfs_fenced import events, log
from scoutfs_fenced.acknowledgements import Acknowledgement, file_stamp, read_acknowledgements
from scoutfs_fenced.addresses import Address, is_own, own_addresses, parse_address
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.devices import Devices
from scoutfs_fenced.events import Events
from scoutfs_fenced.fencing import Attempt, AttemptError, run_attempt
from scoutfs_fenced.hosts import Host
from scoutfs_fenced.levels import Proof
from scoutfs_fenced.mounts import Mounts, read_mounts
from scoutfs_fenced.records import Records
from scoutfs_fenced.request import GONE, UNKNOWN_ADDRESSES, Request, RequestFiles
from scoutfs_fenced.slots import Place, Slots, Urgency
from scoutfs_fenced.statefile import StateError

# Seconds that commands may take to end after SIGTERM, when the agent stops.
SECONDS_TO_END = 10.0

# An attempt ends at its own limit. One that does not is cancelled this many seconds later.
SECONDS_OVER = 5.0

# Seconds for which Knowledge is reused.
FRESH = 0.2

# Shortest pause in seconds before a retry, whatever the configuration says.
SHORTEST_PAUSE = 0.1

# The rid of a fencing by hand, which is for no mount.
NO_RID = "0" * 16


@dataclass
class ServedRequest:
    """A request, and the state of its fencing."""

    request: Request
    # The address in canonical form.
    address: str
    # When `error` is written, in seconds of time.monotonic().
    answer_by: float
    # `waiting`, `pausing` or `done`; whether an attempt runs for it is in Fencing.attempt.
    state: str = "done"
    since: float = field(default_factory=time.monotonic)
    found: float = field(default_factory=time.monotonic)
    # How many attempts were started for it, and how the last one ended.
    attempts: int = 0
    result: str = ""
    # No attempt is started for it before this.
    not_before: float = 0.0
    timer: asyncio.TimerHandle | None = None
    # The host's fencing, until the request is answered.
    fencing: Fencing | None = None
    # Set for a fencing by hand, which is no kernel request: called with the answer.
    by_hand: Callable[[bool, str], None] | None = None

    def enter(self, state: str) -> None:
        """Enters a state."""
        self.state, self.since = state, time.monotonic()

    def log(self, message: str, *, level: int = log.INFORMATION, **fields: str) -> None:
        """Logs a message about this request."""
        log.event(message, level=level, **self.request.fields(), **fields)

    def attempt(self) -> Attempt | None:
        """The running attempt for this request, and perhaps for others, or None."""
        attempt = self.fencing.attempt if self.fencing else None
        return attempt if attempt is not None and self.request.rid in attempt.rids else None

    def host_is_busy(self) -> bool:
        """Whether an attempt runs for the request's host, even if only for other requests."""
        return self.fencing is not None and self.fencing.attempt is not None

    def urgency(self) -> Urgency:
        """Sort key: a first attempt comes before another's second, then the earlier answer_by."""
        return (self.attempts, self.answer_by)


class Fencing:
    """One host to be fenced: its pending requests, and the running attempt."""

    def __init__(self, key: str) -> None:
        self.key = key
        # Unanswered requests, by directory.
        self.pending: dict[str, ServedRequest] = {}
        self.attempt: Attempt | None = None
        self.place: Place | None = None
        self.task: asyncio.Task[None] | None = None
        # Set when there is something new to decide.
        self.wake = asyncio.Event()


class Scheduler:
    """Serves the requests that discovery finds."""

    def __init__(
        self,
        settings: Configuration,
        sysfs: str = "/sys",
        records: Records | None = None,
        directory: str = "",
    ) -> None:
        self.settings = settings
        self.stopping = False
        self._closed = False
        # By directory.
        self.requests: dict[str, ServedRequest] = {}
        self.events = Events()
        self.devices = Devices(directory, self.events)
        self.devices.set_hosts(settings.hosts)
        self._sysfs = sysfs
        self._records = records
        # Where acknowledgements are kept.
        self._directory = directory
        self._fencings: dict[str, Fencing] = {}
        self._slots = Slots(settings.parallel)
        self._own: set[Address] = set()
        self._complaints: set[str] = set()
        self._numbers = itertools.count(1)
        self._knowledge: Knowledge | None = None
        self._looked = 0.0
        # The stamp of the acknowledgements file when it was last read.
        self._stamp: object = None

    def configure(self, settings: Configuration) -> None:
        """Applies a new configuration; running attempts are not changed."""
        self.settings = settings
        self._slots.set_count(settings.parallel)
        self.devices.set_hosts(settings.hosts)
        for fencing in list(self._fencings.values()):
            for served in list(fencing.pending.values()):
                key = self._key(served)
                if key != fencing.key:
                    # The new hosts file gives its address to another host.
                    del fencing.pending[served.request.directory]
                    self._queue(served)
            fencing.wake.set()

    def left(self) -> list[float]:
        """Seconds until the caller gives up, for each unanswered request."""
        now = time.monotonic()
        return [
            served.request.deadline - now
            for served in self.requests.values()
            if served.state != "done"
        ]

    def running(self) -> int:
        """How many hosts have a running attempt."""
        return sum(fencing.attempt is not None for fencing in self._fencings.values())

    def attempts(self) -> list[Attempt]:
        """The running attempts, including those that no request waits for any more."""
        return [each.attempt for each in self._fencings.values() if each.attempt is not None]

    # For discovery.

    def directories(self) -> set[str]:
        """The directories of all known kernel requests."""
        return {path for path, served in self.requests.items() if served.by_hand is None}

    def inode(self, directory: str) -> int | None:
        """The inode of the known request in this directory, or None."""
        served = self.requests.get(directory)
        return served.request.inode if served else None

    def add(self, found: list[tuple[Request, bool]]) -> None:
        """Serves new requests; the flag says whether one is already finished."""
        new = []
        for request, finished in found:
            before = self.requests.get(request.directory)
            if before is not None:
                if before.request.inode == request.inode:
                    continue
                self._withdraw(before, "the request is gone")
            served = self.requests[request.directory] = self._served(request)
            if not finished:
                new.append(served)
        if not new:
            return
        knowledge = self._look()
        for served in sorted(new, key=lambda served: served.answer_by):
            host = self.settings.hosts.host(served.request.address)
            names = {"host": host.name} if host else {}
            self.events.publish(events.REQUEST_BEGUN, **served.request.fields(), **names)
            served.enter("waiting")
            self._answer_known(served, knowledge)
            if served.state != "done":
                self._queue(served)

    def remove(self, directory: str) -> None:
        """Forgets a request that is gone."""
        self._withdraw(self.requests.pop(directory), "the request is gone")

    def recheck_running(self, directory: str) -> None:
        """Like recheck, but only for the few requests with a running attempt."""
        served = self.requests.get(directory)
        if served is not None and served.state != "done" and served.attempt() is not None:
            self.recheck(directory)

    def recheck(self, directory: str) -> None:
        """Withdraws a request that was finished by another writer, or removed."""
        served = self.requests.get(directory)
        if served is not None and served.state != "done":
            self._is_open(served)

    def reconsider(self) -> None:
        """Answers pending requests from new knowledge, such as a new acknowledgement."""
        pending = [served for served in self.requests.values() if served.state != "done"]
        if pending:
            knowledge = self._look(fresh=True)
            for served in pending:
                self._answer_known(served, knowledge)

    def _served(self, request: Request) -> ServedRequest:
        left = request.left()
        # A late request is served until the kernel gives up, which may be later than computed here.
        seconds = left if left > request.margin else request.timeout
        return ServedRequest(request, _spelling(request.address), time.monotonic() + seconds)

    def _is_open(self, served: ServedRequest) -> bool:
        """Whether a request still waits for an answer; if not, withdraws it."""
        if served.by_hand is not None:
            return True
        try:
            with RequestFiles(served.request) as files:
                finished = files.finished()
        except OSError as error:
            if error.errno in GONE:
                self._withdraw(served, "the request is gone")
                return False
            return True
        if finished:
            self._withdraw(served, "the request was finished by someone else")
        return not finished

    def _withdraw(self, served: ServedRequest, why: str) -> None:
        """Stops serving a request without answering it."""
        if served.state == "done":
            return
        going_on = "; its fencing goes on" if served.attempt() is not None else ""
        served.log(f"needs no answer any more, {why}{going_on}", level=log.WARNING)
        served.result = why
        self.events.publish(events.REQUEST_DROPPED, **served.request.fields(), how=why)
        self._settle(served)

    def _settle(self, served: ServedRequest) -> None:
        """Marks a request done and detaches it from its fencing."""
        if served.timer is not None:
            served.timer.cancel()
        served.enter("done")
        fencing, served.fencing = served.fencing, None
        if fencing is not None:
            del fencing.pending[served.request.directory]
            fencing.wake.set()
        if served.by_hand is not None:
            del self.requests[served.request.directory]

    # Answers that need no attempt.

    def tick(self) -> None:
        """Reads mounts and acknowledgements; must be called every few seconds."""
        before = self._stamp
        self._look(fresh=True)
        if self._stamp != before:
            self.reconsider()

    def _look(self, *, fresh: bool = False) -> Knowledge:
        """Collects what is known about requests without fencing anything."""
        now = time.monotonic()
        if self._knowledge is not None and now - self._looked < FRESH and not fresh:
            return self._knowledge
        try:
            self._own = own_addresses()
        except OSError as error:
            self._complain(f"this host's own addresses cannot be read: {error.strerror}")
        acknowledged: list[Acknowledgement] = []
        self._stamp = file_stamp(self._directory) if self._directory else None
        if self._stamp is not None:
            try:
                acknowledged = read_acknowledgements(self._directory)
            except StateError as error:
                self._complain(f"what administrators have acknowledged is not known: {error}")
        mounts = read_mounts(self._sysfs)
        if self._records is not None:
            self._records.add_mounted(mounts.rids)
        self._looked, self._knowledge = now, Knowledge(mounts, acknowledged)
        return self._knowledge

    def _complain(self, message: str) -> None:
        """Logs an error once."""
        if message not in self._complaints:
            self._complaints.add(message)
            log.event(message, level=log.ERROR)

    def _answer_known(self, served: ServedRequest, knowledge: Knowledge) -> bool:
        """Answers a request from what is known; returns whether an answer is known.

        If so, no attempt may be made for it, even if the answer could not be written yet: no device
        fences this host, or the host that has an address of a mount of this one by now.
        """
        request = served.request
        host = self.settings.hosts.host(request.address)
        own = self._is_own(request.address, host)
        if served.by_hand is not None:
            if own:
                self._failed(served, f"{request.address} is an address of this host")
                return True
        elif knowledge.mounts.has(request.rid):
            # No record or acknowledgement can be right, and no device would fence this mount.
            if host is not None:
                self._failed(served, "this host has the mount: it cannot fence itself; unmount it")
                return True
        else:
            how = self._known(served, host, knowledge)
            if how is not None:
                self._fenced(served, how)
                return True
            if own and host is not None:
                having = self.settings.hosts.having(self._own)
                self._failed(served, _why_not_here(request, knowledge, having))
                return True
            # An own address that is not in the hosts file is left to the command: one that unmounts
            # looks for the mount itself.
        return False

    def _known(self, served: ServedRequest, host: Host | None, knowledge: Knowledge) -> str | None:
        """How a mount is known to be fenced; None if it is not known."""
        request = served.request
        own = self._is_own(request.address, host)
        for each in knowledge.acknowledged:
            if each.is_about(request.rid, served.address):
                # Not recorded: it can be withdrawn.
                return f"acknowledged: {each}"
        recorded = self._recorded(served, host)
        if recorded is not None:
            return f"was fenced before: {recorded}"
        is_gone = own and not knowledge.mounts.may_have(request.rid)
        if is_gone and self._was_here(request, host):
            self._record(request.rid, served.address, "it was a mount of this host, and is gone")
            return "it was a mount of this host, which has it no longer"
        return None

    def _is_own(self, address: str, host: Host | None) -> bool:
        """Whether this host has the address, or another address of the same host."""
        try:
            addresses = {parse_address(address), *(host.addresses if host else ())}
        except ValueError:
            return False
        return any(is_own(each, self._own) for each in addresses)

    def _was_here(self, request: Request, host: Host | None) -> bool:
        """Whether the mount was certainly one of this host's."""
        if self._records is not None and self._records.was_mounted_here(request.rid):
            return True
        with suppress(ValueError):
            if parse_address(request.address).is_loopback:
                return True
        return (
            host is not None
            and all(is_own(each, self._own) for each in host.addresses)
            and len(self.settings.hosts.having(self._own)) == 1
        )

    def _recorded(self, served: ServedRequest, host: Host | None) -> str | None:
        """How the mount was fenced before, at an address of the same host, or None."""
        if self._records is None:
            return None
        rid, digest = served.request.rid, _digest(host)
        addresses = [served.address, *map(str, host.addresses if host else ())]
        found = (self._records.fenced(rid, address, digest) for address in addresses)
        return next(filter(None, found), None)

    def _record(self, rid: str, address: str, how: str) -> None:
        if self._records is not None and rid != NO_RID:
            digest = _digest(self.settings.hosts.host(address))
            self._records.add_fenced(rid, address, digest, how)

    # Answering the kernel.

    def _fenced(self, served: ServedRequest, how: str, since: float | None = None) -> None:
        """Answers `fenced`: the mount can no longer write. The head of this file says why."""
        self._answer(served, True, how, since)

    def _failed(self, served: ServedRequest, how: str, since: float | None = None) -> None:
        """Answers `error`: the mount could not be fenced in time."""
        self._answer(served, False, how, since)

    def _answer(self, served: ServedRequest, fenced: bool, how: str, since: float | None) -> None:
        if served.state == "done":
            return
        now = time.monotonic()
        duration = f"{now - (served.found if since is None else since):.3f}"
        served.result = how
        ending = f"{how} after {duration} s" if since is not None else how
        try:
            if served.by_hand is not None:
                served.by_hand(fenced, ending)
            else:
                with RequestFiles(served.request) as files:
                    if files.finished():
                        raise _AnsweredError("the request was finished by someone else")
                    if fenced or not served.request.error_is_success:
                        files.finish(fenced)
                    else:
                        # Without an answer the leader gives up, and the next leader asks again.
                        ending += "; its leader, which would take error for success, gets no answer"
        except _AnsweredError as error:
            served.log(f"{ending}, but {error}", level=log.WARNING, duration=duration)
        except OSError as error:
            lost = _why_lost(error)
            if lost:
                served.log(f"{ending}, but {lost}", level=log.WARNING, duration=duration)
            else:
                # Such as too many open files. No attempt is needed, only another try to write it.
                served.log(
                    f"{ending}, but no answer can be written: {error.strerror}", level=log.ERROR
                )
                served.not_before = served.answer_by
                if now < served.answer_by:
                    asyncio.get_running_loop().call_later(
                        self._pause(), self._answer, served, fenced, how, since
                    )
                    return
        else:
            outcome = "fenced" if fenced else "failed"
            if fenced:
                served.log(f"fenced, {ending}", duration=duration, result=outcome)
            else:
                served.log(
                    f"could not be fenced, {ending}",
                    level=log.ERROR,
                    duration=duration,
                    result=outcome,
                )
            self.events.publish(
                events.REQUEST_FENCED if fenced else events.REQUEST_FAILED,
                **served.request.fields(),
                how=how,
                duration=f"{now - served.found:.3f}",
            )
        self._settle(served)

    # Fencing hosts.

    def _key(self, served: ServedRequest) -> str:
        """Key of a request's Fencing: its host's name or address; its rid if these are unknown."""
        host = self.settings.hosts.host(served.request.address)
        if host is not None:
            return f"host {host.name}"
        if served.request.address in UNKNOWN_ADDRESSES:
            return f"rid {served.request.rid}"
        return f"address {served.address}"

    def _queue(self, served: ServedRequest) -> None:
        if self._closed:
            return
        key = self._key(served)
        fencing = self._fencings.get(key)
        if fencing is None:
            fencing = self._fencings[key] = Fencing(key)
        fencing.pending[served.request.directory] = served
        served.fencing = fencing
        if served.timer is None:
            loop = asyncio.get_running_loop()
            seconds = max(0.0, served.answer_by - time.monotonic())
            served.timer = loop.call_later(seconds, self._expire, served)
        if fencing.task is None:
            fencing.task = asyncio.ensure_future(self._serve(fencing))
        elif fencing.place is not None:
            self._slots.hurry(fencing.place, served.urgency())
        fencing.wake.set()

    def _expire(self, served: ServedRequest) -> None:
        """Fails a request whose caller is about to give up; a running attempt continues."""
        if served.state == "done":
            return
        served.timer = None
        if not self._is_open(served) or self._answer_known(served, self._look()):
            return
        attempt = served.attempt()
        other = served.fencing.attempt if served.fencing is not None else None
        if attempt is not None:
            why = f"; this goes on: {attempt.step}"
        elif served.result:
            why = f", after {served.result}"
        elif other is not None:
            why = f", as its host was busy with another attempt, for another mount: {other.step}"
        else:
            why = ", as no slot was free"
        self._failed(served, f"no time is left{why}")

    async def _serve(self, fencing: Fencing) -> None:
        """Makes attempts until no request is pending."""
        try:
            while fencing.pending:
                fencing.wake.clear()
                now = time.monotonic()
                ready = [each for each in fencing.pending.values() if each.not_before <= now]
                if ready:
                    await self._wait_and_attempt(fencing, min(each.urgency() for each in ready))
                    # It may not have waited for anything.
                    await asyncio.sleep(0)
                    continue
                until = min(each.not_before for each in fencing.pending.values())
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(fencing.wake.wait(), until - now)
        except asyncio.CancelledError:
            for served in fencing.pending.values():
                served.log("not fenced yet; left to the next agent", level=log.WARNING)
        except Exception as error:
            # This must not end the other hosts' tasks; the next scan finds these requests again.
            log.event(f"unexpected, for {fencing.key}: {error!r}", level=log.ERROR)
            for served in list(fencing.pending.values()):
                if served.by_hand is not None:
                    served.by_hand(False, f"unexpected: {error!r}")
                self._settle(served)
                self.requests.pop(served.request.directory, None)
        finally:
            fencing.task = None
            if self._fencings.get(fencing.key) is fencing:
                del self._fencings[fencing.key]

    async def _wait_and_attempt(self, fencing: Fencing, urgency: Urgency) -> None:
        fencing.place = self._slots.place(urgency)
        async with self._slots.slot(fencing.place):
            fencing.place = None
            knowledge = self._look()
            unanswered = [
                served
                for served in list(fencing.pending.values())
                if self._is_open(served) and not self._answer_known(served, knowledge)
            ]
            now = time.monotonic()
            ready = [each for each in unanswered if each.not_before <= now]
            if ready:
                await self._attempt(fencing, min(ready, key=ServedRequest.urgency))

    async def _attempt(self, fencing: Fencing, first: ServedRequest) -> None:
        attempt = self._new_attempt(fencing, first)
        covered = [each for each in fencing.pending.values() if each.request.rid in attempt.rids]
        for served in covered:
            served.attempts += 1
            served.enter("waiting")
        fencing.attempt = attempt
        settings = self.settings
        end = attempt.began + (
            first.request.kernel_timeout if settings.limit is None else settings.limit
        )

        def step(text: str) -> None:
            attempt.step = text
            first.log(text if first.attempts == 1 else f"attempt {first.attempts}: {text}")

        def proven(proof: Proof) -> None:
            self._proven(fencing, attempt, proof)

        task = asyncio.ensure_future(
            run_attempt(
                settings,
                self.devices,
                attempt,
                due=min(each.answer_by for each in covered),
                end=end,
                proven=proven,
                step=step,
                say=first.log,
            )
        )
        try:
            await _within(task, end - time.monotonic() + SECONDS_OVER)
        except AttemptError as error:
            self._not_proven(fencing, covered, attempt, str(error))
        finally:
            fencing.attempt = None

    def _new_attempt(self, fencing: Fencing, first: ServedRequest) -> Attempt:
        request = first.request
        host = self.settings.hosts.host(request.address)
        if host is not None:
            addresses = {str(address) for address in host.addresses}
            fences_host = True
        else:
            addresses = {first.address}
            # For this host itself, a command can only unmount.
            fences_host = (
                self.settings.fences_host
                and request.address not in UNKNOWN_ADDRESSES
                and not self._is_own(request.address, None)
            )
        rids = {request.rid: first.address}
        if fences_host:
            pending = fencing.pending.values()
            rids |= {
                each.request.rid: each.address for each in pending if each.address in addresses
            }
        return Attempt(request, host, addresses, fences_host, rids)

    def _proven(self, fencing: Fencing, attempt: Attempt, proof: Proof) -> None:
        """The host is off, or the mount is gone: answers all requests that the proof covers."""
        attempt.proof = proof
        # A command may have fenced the host that has the address of a mount of this one by now.
        mounts = read_mounts(self._sysfs)
        for served in list(fencing.pending.values()):
            if not attempt.answers(served.request, served.address):
                continue
            if not self._is_still(attempt, served.address):
                # Another attempt follows at once.
                served.log(
                    f"not fenced yet, {proof.how}, but the hosts file has changed since: it gives "
                    f"{served.address} to another host, or other devices to that host",
                    level=log.WARNING,
                )
                continue
            if mounts.has(served.request.rid):
                why = f"{proof.how}, but this host still has the mount"
                self._not_proven(fencing, [served], attempt, why)
                continue
            self._record(served.request.rid, served.address, proof.how)
            self._fenced(served, proof.how, attempt.began)
        # Also for requests that are gone meanwhile: the next leader requests the same mounts.
        for rid, address in attempt.rids.items():
            if not mounts.has(rid) and self._is_still(attempt, address):
                self._record(rid, address, proof.how)

    def _is_still(self, attempt: Attempt, address: str) -> bool:
        """Whether the current hosts file has the attempt's host, with its devices, at an address.

        If a command fences the address, whether the hosts file still does not have it.
        """
        return _digest(self.settings.hosts.host(address)) == _digest(attempt.host)

    def _not_proven(
        self, fencing: Fencing, covered: list[ServedRequest], attempt: Attempt, why: str
    ) -> None:
        """An attempt has failed: retries each request, or fails it."""
        now = time.monotonic()
        duration = f"{now - attempt.began:.3f}"
        ending = f"{why} after {duration} s"
        pause, retries = self._pause(), self.settings.retries
        if all(served.state == "done" for served in covered):
            then = "another attempt follows" if fencing.pending else "no request waits for it"
            log.event(
                f"not fenced, {ending}; {then}",
                level=log.WARNING,
                **attempt.request.fields(),
            )
        for served in covered:
            if served.state == "done":
                continue
            served.result = why
            served.enter("pausing")
            if (retries is not None and served.attempts > retries) or (
                served.request.left() <= pause
            ):
                self._failed(served, why, attempt.began)
                continue
            served.not_before = now + pause
            served.log(
                f"not fenced yet, {ending}; another attempt follows in {pause:g} s",
                level=log.WARNING,
                duration=duration,
            )

    def _pause(self) -> float:
        return max(SHORTEST_PAUSE, self.settings.retry_pause)

    # By hand.

    def fence_by_hand(self, name: str, by: str, answer: Callable[[bool, str], None]) -> None:
        """Fences a host of the hosts file, or whatever the command fences at an address.

        Raises LookupError, with a sentence, if there is no such host. `answer` is called later.
        """
        host = next((each for each in self.settings.hosts if each.name == name), None)
        if host is None:
            try:
                address = str(parse_address(name))
            except ValueError:
                raise LookupError(
                    f"{name} is not an address, and {self.settings.no_such_host()}"
                ) from None
            if self.settings.hosts.host(address) is None and not self.settings.command:
                raise LookupError(f"no device is known for {name}, and there is no command")
        else:
            address = str(host.addresses[0])
        now = time.monotonic()
        request = Request(
            f"by hand, {next(self._numbers)}",
            0,
            NO_RID,
            address,
            "administrator",
            "-",
            now,
            now,
            30.0,
            30.0,
        )
        served = ServedRequest(request, address, now + 28.0, by_hand=answer)
        served.log(f"is to be fenced by hand, by the word of {by}", level=log.WARNING)
        self.requests[request.directory] = served
        served.enter("waiting")
        self._answer_known(served, self._look())
        if served.state != "done":
            self._queue(served)

    # Stopping.

    async def stop(self, at_once: asyncio.Future[Literal[True]]) -> None:
        """Waits for running attempts, up to the stop timeout or `at_once`, and cancels the rest.

        Requests, new ones too, are served meanwhile: they need not wait for the next agent.
        """
        self.stopping = True
        if self.running():
            log.event(
                f"waiting up to {self.settings.stop_timeout:g} s for commands that run: "
                f"{self.running()}"
            )
        end = time.monotonic() + self.settings.stop_timeout
        while self.running() and not at_once.done() and time.monotonic() < end:
            waited_for: set[asyncio.Future[Any]] = {*self._tasks(), at_once}
            await asyncio.wait(
                waited_for,
                timeout=min(0.05, end - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if self.running():
            log.event(
                f"ending commands that still run: {self.running()}; "
                "their requests are left to the next agent",
                level=log.WARNING,
            )
        self._closed = True
        tasks = self._tasks()
        for task in tasks:
            # Once: cancelling again would take away a command's grace period.
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=SECONDS_TO_END)

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {fencing.task for fencing in self._fencings.values() if fencing.task is not None}


@dataclass(frozen=True)
class Knowledge:
    """What is known about requests without fencing anything, at one moment."""

    mounts: Mounts
    acknowledged: list[Acknowledgement]


class _AnsweredError(Exception):
    """Why a request needs no answer, as a phrase."""


async def _within(task: asyncio.Task[None], seconds: float) -> None:
    """Waits for an attempt, cancels it if it does not end in time, and passes on its exception.

    It is cancelled once, whatever happens to the caller, and has ended when this returns: a second
    cancellation would take away its commands' second of grace.
    """
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise AttemptError("it did not end in its time")
    task.result()


def _spelling(address: str) -> str:
    """The canonical form of an address; anything else is returned unchanged."""
    try:
        return str(parse_address(address))
    except ValueError:
        return address


def _digest(host: Host | None) -> str:
    """What a record says of a host, which is None if the command fences the address."""
    return host.digest if host else ""


def _why_not_here(request: Request, knowledge: Knowledge, having: list[Host]) -> str:
    """Why a mount at an address of this host is not known to be fenced.

    `having` are the hosts that have addresses of this host.
    """
    if knowledge.mounts.may_have(request.rid):
        return "this host may have the mount: it cannot fence itself; see /sys/fs/scoutfs"
    if len(having) > 1:
        return (
            f"this host has addresses of {', '.join(host.name for host in having)}, so "
            f"{request.address} may have moved here from a host that still writes: find out which "
            "host had the mount, see that it is off, and then say so with: "
            f"scoutfs-fenced ack {request.rid} --for 15m"
        )
    return (
        f"{request.address} is an address of this host, and nothing tells that the mount "
        f"was one of this host; if it was, say so with: scoutfs-fenced ack {request.rid} --for 15m"
    )


def _why_lost(error: OSError) -> str:
    """Why the kernel takes no answer any more; empty if it may take one later."""
    if error.errno in GONE:
        return "the request is gone"
    if error.errno == errno.ESTALE:
        return "the request had already failed"
    return ""
