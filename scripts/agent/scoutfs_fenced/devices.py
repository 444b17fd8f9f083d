# SPDX-License-Identifier: GPL-2.0-only
"""The state of all fence devices, and their monitoring.

Each device is asked for its status every SCOUTFS_FENCED_MONITOR seconds, one after another, spread
over that time. A device that does not answer, or is unusable because its fence agent or a secret is
missing or its parameters are wrong, is reported once, and once more when it is back; other hosts'
devices are not affected. An unusable device is checked again every few seconds, and before each
use. So is one that could not let in this agent's own host.

A device that did not answer a fencing in time counts as silent for some minutes: levels.py tries
the levels that are not silent first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Callable

from scoutfs_fenced import events, log
from scoutfs_fenced.addresses import own_addresses
from scoutfs_fenced.device import Calls, DeviceError, Silent, Unusable
from scoutfs_fenced.events import Events
from scoutfs_fenced.hosts import Device, Host, Hosts
from scoutfs_fenced.metadata import MetadataCache
from scoutfs_fenced.registrations import Registrations
from scoutfs_fenced.sessions import Sessions

# Seconds for which a device that did not answer is tried after those that may.
SILENCE = 300.0

# Seconds between two checks of unusable devices.
RECHECK = 10.0

# Seconds that a device may take to answer monitoring, and to let in this agent's own host.
ANSWER = 30.0
UNFENCE = 20.0

# Parameters that identify a host at a device that lets hosts in.
HOST_PARAMETERS = ("key", "plug", "nodename")

# Directories of mounts in sysfs: with any, this host may be writing.
MOUNTS = ("fs/scoutfs", "fs/scoutfs_fence")


@dataclass
class DeviceState:
    """A device's state, since when, and why it is not well."""

    device: Device
    # unknown, on, off, unusable or silent
    state: str = "unknown"
    # Seconds since 1970.
    since: float = 0.0
    why: str = ""

    @property
    def well(self) -> bool:
        """Whether it can fence, as far as is known."""
        return self.state not in ("unusable", "silent")

    def fields(self) -> dict[str, str | int | float]:
        """For `status`, and for programs."""
        return {
            "host": self.device.host,
            "level": self.device.level,
            "device": self.device.name,
            "agent": os.path.basename(self.device.agent),
            "state": self.state,
            "well": self.well,
            "since": self.since,
            "why": self.why,
        }


class Devices:
    """All devices of a hosts file, and their shared state."""

    def __init__(self, directory: str, published: Events | None = None) -> None:
        """`directory` is the state directory; `published` gets events for devices lost and back."""
        self.hosts = Hosts()
        self.sessions = Sessions()
        self._events = published
        self._metadata = MetadataCache()
        self._registrations = Registrations(directory, log.event)
        self._states: dict[tuple[str, ...], DeviceState] = {}
        # By identity: until when a device counts as silent, in seconds of time.monotonic().
        self._silent: dict[tuple[str, ...], float] = {}
        # By identity: the devices that have let in this agent's own host since the agent started,
        # and why others could not.
        self._let_in: set[tuple[str, ...]] = set()
        self._shut_out: dict[tuple[str, ...], str] = {}
        # The last logged message that this agent's own host is not known.
        self._doubt = ""
        self._changed = asyncio.Event()

    def set_hosts(self, hosts: Hosts) -> None:
        """Switches to a new hosts file; devices that stay keep their state."""
        self.hosts = hosts
        self.sessions.set_hosts(hosts)
        before = self._states
        self._states = {}
        for device in _devices(hosts):
            state = before.get(_place(device))
            if state is not None and _written(state.device) == _written(device):
                state = DeviceState(device, state.state, state.since, state.why)
            else:
                # It may have been corrected, so that it answers now.
                self._silent.pop(device.identity, None)
                state = DeviceState(device, since=time.time())
            self._states[_place(device)] = state
        self._changed.set()

    def states(self) -> list[DeviceState]:
        """The state of each device, in the order of the hosts file."""
        return list(self._states.values())

    def calls(self, environment: Mapping[str, str], *, patient: bool = False) -> Calls:
        """Returns Calls with this environment; see there for `patient`."""
        return Calls(
            metadata=self._metadata,
            sessions=self.sessions,
            registrations=self._registrations,
            own=self._own,
            environment=environment,
            patient=patient,
        )

    def own_hosts(self) -> list[Host]:
        """This agent's own host in the hosts file: one, or none if that is not known."""
        try:
            own = own_addresses()
        except OSError as error:
            # Loopback addresses are known anyway; whatever needs others does nothing.
            log.event(f"this host's own addresses cannot be read: {error}", level=log.ERROR)
            own = set()
        found = self.hosts.having(own)
        if len(found) <= 1:
            self._doubt = ""
            return found
        doubt = (
            f"this host has addresses of {', '.join(host.name for host in found)}, so which of "
            "them it is cannot be known; no device lets it in"
        )
        if doubt != self._doubt and any(device.unfence for device in _devices(found)):
            log.event(doubt, level=log.ERROR)
            self._doubt = doubt
        return []

    def _own(self, device: Device) -> Device | None:
        """The device that lets in this agent's own host as `device` lets in another, or None."""
        shared = device.identity_without(HOST_PARAMETERS)
        for own in _devices(self.own_hosts()):
            if own.unfence and own.identity_without(HOST_PARAMETERS) == shared:
                return own
        return None

    # Results of fencing.

    def is_silent(self, device: Device) -> bool:
        """Whether a device failed to answer in the last SILENCE seconds."""
        return self._silent.get(device.identity, 0.0) > time.monotonic()

    def answered(self, device: Device, state: str) -> None:
        """Records that a device reported its host on or off."""
        self._silent.pop(device.identity, None)
        self._enter(device, state, "")

    def failed(self, device: Device, error: DeviceError) -> None:
        """Records why a device did nothing."""
        if isinstance(error, Unusable):
            self._enter(device, "unusable", str(error))
        elif isinstance(error, Silent):
            self._silent[device.identity] = time.monotonic() + SILENCE
            self._enter(device, "silent", str(error))

    def _enter(self, device: Device, state: str, why: str) -> None:
        known = self._states.get(_place(device))
        if known is None or (known.state, known.why) == (state, why):
            return
        was_well = known.well
        known.state, known.since, known.why = state, time.time(), why
        if known.well:
            if not was_well:
                log.event(f"{device} can be used again", device=str(device), result="back")
        else:
            log.event(
                f"{device} cannot be used: {why}",
                level=log.ERROR,
                device=str(device),
                result="lost",
            )
        if known.well != was_well and self._events is not None:
            kind = events.DEVICE_BACK if known.well else events.DEVICE_LOST
            self._events.publish(kind, device=str(device), host=device.host, how=why or state)

    # Monitoring.

    async def look(self, environment: Mapping[str, str]) -> None:
        """Checks which devices can be used, without calling any of them."""
        calls = self.calls(environment)
        for device in _devices(self.hosts):
            await self._look_at(calls, device)

    async def _look_at(self, calls: Calls, device: Device) -> bool:
        known = self._states.get(_place(device))
        if known is None:
            # The hosts file has changed meanwhile.
            return False
        try:
            await calls.usable(device)
        except Unusable as error:
            self.failed(device, error)
            return False
        if known.state == "unusable":
            self._enter(device, "unknown", "")
        return True

    async def watch(
        self,
        sysfs: str,
        period: Callable[[], float],
        environment: Callable[[], Mapping[str, str]],
    ) -> None:
        """Monitors the devices forever. `period` is in seconds; 0 asks none of them."""
        while True:
            self._changed.clear()
            await self.look(environment())
            devices = list(_devices(self.hosts))
            begin, asked = time.monotonic(), 0
            while not self._changed.is_set():
                seconds = period()
                now = time.monotonic()
                if seconds and devices and now >= begin + seconds * (asked + 1) / len(devices):
                    await self._ask(devices[asked % len(devices)], environment())
                    asked += 1
                    continue
                pause = RECHECK
                if seconds and devices:
                    pause = min(pause, begin + seconds * (asked + 1) / len(devices) - now)
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({changed}, timeout=max(0.0, pause))
                changed.cancel()
                for state in self.states():
                    if state.state == "unusable":
                        await self._look_at(self.calls(environment()), state.device)
                await self._unfence_again(sysfs, environment())

    async def _ask(self, device: Device, environment: Mapping[str, str]) -> None:
        """Asks one device for its status, unless a fencing needs its session meanwhile."""
        if device.prepare:
            return
        calls = self.calls(environment, patient=True)
        task = asyncio.ensure_future(calls.status(device, ANSWER, _ignore, urgent=False))
        try:
            await asyncio.wait({task})
        finally:
            # If sessions.py cancelled it, the device is asked in the next round.
            task.cancel()
        if task.cancelled():
            return
        try:
            self.answered(device, task.result())
        except Unusable as error:
            self.failed(device, error)
        except DeviceError as error:
            self.failed(device, Silent(str(error)))

    # This agent's own host.

    async def unfence(self, sysfs: str, environment: Mapping[str, str]) -> None:
        """Lets in this agent's own host at the devices that require it.

        Only while nothing is mounted: a host that was fenced while it had a mount must not regain
        access before that mount is gone, since its writes are no longer wanted.

        `on` is called even if a device already says "on": that may be the registration of a session
        from before this host booted, through which it can no longer write; and fence_scsi fences
        others only on a host where its `on` has run since the boot.
        """
        calls = self.calls(environment)
        devices = self._letting_in()
        await asyncio.gather(*(self._unfence(calls, device, sysfs) for device in devices))

    async def _unfence_again(self, sysfs: str, environment: Mapping[str, str]) -> None:
        """Retries the devices that could not: a disk may appear after this agent started."""
        calls = self.calls(environment)
        for device in self._letting_in() if self._shut_out else ():
            if device.identity in self._shut_out:
                await self._unfence(calls, device, sysfs)

    def _letting_in(self) -> list[Device]:
        return [device for device in _devices(self.own_hosts()) if device.unfence]

    async def _unfence(self, calls: Calls, device: Device, sysfs: str) -> None:
        why = self._shut_out.pop(device.identity, None)
        try:
            is_on = await calls.status(device, UNFENCE, _ignore) == "on"
            if is_on and (device.identity in self._let_in or mounted(sysfs)):
                log.event(f"{device}: this host is let in")
            elif mounted(sysfs):
                log.event(
                    f"{device}: this host is kept out, and has mounts; it was fenced: "
                    "unmount them, or reboot it, and then restart this agent",
                    level=log.ERROR,
                )
                return
            else:
                await calls.switch_on(device, UNFENCE, _ignore if why else log.event)
                if await calls.status(device, UNFENCE, _ignore) != "on":
                    raise DeviceError("on succeeded, but by its status it is still off")
                log.event(f"{device}: this host is let in now")
            self._let_in.add(device.identity)
        except DeviceError as error:
            self.failed(device, error)
            self._shut_out[device.identity] = str(error)
            if str(error) != why:
                log.event(f"{device}: this host could not be let in: {error}", level=log.ERROR)


def mounted(sysfs: str) -> bool:
    """Whether this host has a mount that may write."""
    for folder in MOUNTS:
        try:
            if any(entry.is_dir() for entry in os.scandir(os.path.join(sysfs, folder))):
                return True
        except FileNotFoundError:
            continue
        except OSError:
            return True
    return False


def _devices(hosts: Iterable[Host]) -> Iterable[Device]:
    return (device for host in hosts for device in host.devices)


def _place(device: Device) -> tuple[str, ...]:
    return device.host, str(device.level), device.name


def _written(device: Device) -> tuple[str, dict[str, str]]:
    """The agent and all parameters, as in the hosts file."""
    return device.agent, {key: value.value for key, value in device.values.items()}


def _ignore(_line: str) -> None:
    pass
