# SPDX-License-Identifier: GPL-2.0-only
"""One fence device: has its fence agent switch a host off, and proves that it is off.

A fence agent reads its parameters from standard input, as lines NAME=VALUE, and reports the result
in its exit status. A device has fenced its host if and only if all of these hold:

- Its action `off` was called, and then `status`: a host that was off before may have been switched
  on in between, so an earlier status proves nothing.
- That `status` ended by itself with exit status 2. A shell, Python and getopt also exit with 2, if
  they cannot run a program or reject its arguments; so do Perl, grep and ls if a file is missing,
  and Go if it crashes. So a `status` that prints a usage, a stack trace or such an error is
  repeated once, and does not count as "off" if it does so again. Other output is no reason: many
  fence agents print warnings.
- The host's own parameters were used, the agent knew all of them (it would ignore an unknown one
  and act on another outlet), and no other host has the same ones (hosts.py).

Whether `off` itself succeeded does not count: a BMC refuses it if the host is already off, and one
that says "done" may only have begun. The status decides, and is polled until it is "off".

That is not enough for a device that keeps a host away from disks instead of cutting its power, by a
reservation or at a switch (`unfence`, see metadata.py). It says "off" for every host that it never
let in, even if the hosts file misspells the name and the host keeps writing under another. So:

- Before `off` the device said "on", which shows that the name is right; or it said so earlier to
  this agent (registrations.py), and it lets in this agent's own host now: a device that has lost
  its reservation lets everyone write, and has forgotten this host too.
- `off` must succeed: if there is no reservation, fence_scsi removes the key and then fails.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from scoutfs_fenced import process
from scoutfs_fenced.hosts import (
    PARAMETER,
    WORDS,
    Device,
    SecretError,
    Value,
    read_secret,
    secret_of,
)
from scoutfs_fenced.metadata import Metadata, MetadataCache, MetadataError
from scoutfs_fenced.registrations import Registrations
from scoutfs_fenced.sessions import NoSession, Sessions

# Meaning of the exit status of the action `status`. Any other is no answer.
STATUS = {0: "on", 2: "off"}

# Output of programs that exit with status 2 for another reason than a host that is off.
COMPLAINT = re.compile(
    r"(?i)\busage:|Traceback \(most recent call last\)|unrecognized (option|argument)"
    r"|invalid option|requires an argument|can't open file|syntax ?error|cannot execute"
    # A failed open() in Perl, whose die() exits with errno 2, and grep, ls and the like.
    r"|No such file or directory|Permission denied|Is a directory|Can't locate| at \S+ line \d+"
    # Go.
    r"|\bpanic:|\bgoroutine \d",
)

# Agents with this parameter expose the password to every user, on ipmitool's command line in /proc.
# They get this program instead of ipmitool, and the secret's file name instead of the secret.
IPMITOOL_PATH = "ipmitool_path"
IPMITOOL = Path(__file__).resolve().parent / "ipmitool-password-file"

# Directories of fence agents that a service's PATH leaves out.
SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# Seconds between two polls of the status.
STATUS_PAUSE = 0.5

# How much of a device's time `off` leaves for `status`: this many seconds, or this fraction of the
# time if that is less.
STATUS_SECONDS = 3.0
STATUS_PART = 0.25

# Seconds that a device may take to switch its host on again. No caller waits for that.
ON_SECONDS = 60.0

HIDDEN = "***"

# Replaces a character of which only a part was read.
REPLACEMENT = "\ufffd"


class DeviceError(Exception):
    """Why a device has not done what it was called for, as a phrase."""


class Unusable(DeviceError):
    """Why a device cannot be used at the moment, with the file and the line to fix."""

    def __init__(self, device: Device, line: int, what: str) -> None:
        self.line = line
        super().__init__(f"{device.path}, line {line}: {what}")


class Silent(DeviceError):
    """A device did not answer in time."""


@dataclass(frozen=True)
class Usable:
    """A fence agent and its parameters, ready to be called."""

    agent: str
    metadata: Metadata
    # Parameters by the agent's own names, without the action.
    given: Mapping[str, str]
    secrets: Sequence[str]


class Calls:
    """Calls fence agents, with the state that all devices share.

    `own` returns, for a device of another host, the device that lets in this agent's own host, or
    None if the hosts file has none. With `patient`, the time that a device is busy with other hosts
    does not count.
    """

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        sessions: Sessions,
        registrations: Registrations,
        own: Callable[[Device], Device | None],
        environment: Mapping[str, str],
        patient: bool = False,
    ) -> None:
        self.metadata = metadata
        self.sessions = sessions
        self.registrations = registrations
        self.own = own
        self.environment = environment
        self.patient = patient

    async def usable(self, device: Device) -> Usable:
        """Checks all that can be checked without calling the device; raises Unusable.

        The fence agent may be installed, or the secret written, at any time, so only the agent's
        metadata is cached.
        """
        path = find_agent(device)
        try:
            metadata = await self.metadata.get(path, self.environment)
        except MetadataError as error:
            raise Unusable(device, device.agent_line, f"{device.agent}: {error}") from error
        _check_actions(device, metadata)
        given, files = _parameters(device, metadata)
        secrets = {}
        for name, value in files.items():
            try:
                secrets[name] = read_secret(value.value)
            except SecretError as error:
                raise Unusable(device, value.line, str(error)) from error
        if secrets and IPMITOOL_PATH in metadata.spelling:
            _check_ipmitool(device, metadata, files)
            given[metadata.spelling[IPMITOOL_PATH]] = str(IPMITOOL)
            given.update({name: value.value for name, value in files.items()})
        else:
            given.update({name: quoted(secret) for name, secret in secrets.items()})
        return Usable(path, metadata, given, tuple(secrets.values()))

    async def call(
        self,
        device: Device,
        action: str,
        seconds: float,
        say: Callable[[str], None],
        *,
        urgent: bool = True,
    ) -> process.Ending:
        """Calls the fence agent of a device, once it has a session, for up to `seconds` in all.

        Raises Unusable, Silent if no time is left, or DeviceError if others kept the device busy. A
        call that is not urgent is cancelled if an urgent one needs its session.
        """
        if seconds <= 0:
            raise Silent(f"{action} failed, as no time was left for it")
        end = time.monotonic() + seconds
        try:
            usable = await asyncio.wait_for(self.usable(device), seconds)
        except asyncio.TimeoutError:
            raise DeviceError(f"{device.agent} did not print its metadata in time") from None
        hide = hiding(usable.secrets)
        lines = {"action": action, **usable.given}
        try:
            wait = math.inf if self.patient else end - time.monotonic()
            async with self.sessions.session(device, wait, urgent=urgent):
                if self.patient:
                    end = time.monotonic() + seconds
                return await process.run(
                    [usable.agent],
                    environment=self.environment,
                    limit=end - time.monotonic(),
                    stdin="".join(f"{name}={value}\n" for name, value in lines.items()).encode(
                        errors="surrogateescape"
                    ),
                    say=lambda line: say(f"{device}: {action} says: {hide(line)}"),
                )
        except NoSession as error:
            raise DeviceError(str(error)) from error

    async def status(
        self,
        device: Device,
        seconds: float,
        say: Callable[[str], None],
        *,
        urgent: bool = True,
    ) -> str:
        """Returns on or off, as the device reports it; raises DeviceError if it does not."""
        limit = min(seconds, device.limit)
        end = time.monotonic() + limit
        for again in (False, True):
            said: list[str] = []

            def listen(line: str, said: list[str] = said) -> None:
                said.append(line)
                say(line)

            left = limit if self.patient else end - time.monotonic()
            ending = await self.call(device, "status", left, listen, urgent=urgent)
            if ending.over_limit is not None:
                if again:
                    break
                raise Silent(f"status failed, {ending}")
            answer = STATUS.get(-1 if ending.status is None else ending.status)
            if answer is None:
                raise DeviceError(f"status failed, {ending}")
            if answer == "on":
                if device.unfence:
                    self.registrations.add(device)
                return answer
            if not any(COMPLAINT.search(line) for line in said):
                return answer
            if not again:
                say(f"{device}: status is asked once more, as this is no answer")
        raise DeviceError("status failed, exit status 2 with a complaint, which is no answer")

    async def switch_off(
        self,
        device: Device,
        seconds: float,
        doing: Callable[[str], None],
        say: Callable[[str], None],
    ) -> float:
        """Switches a host off and proves it; raises DeviceError if it cannot.

        Returns when the status that proves it was requested, in seconds of time.monotonic(). The
        head of this file says what a proof is. Cancelling this ends the running command.
        """
        end = time.monotonic() + min(seconds, device.limit)

        def left() -> float:
            return end - time.monotonic()

        def does(action: str, seconds: float) -> float:
            doing(f"{device}: {action}, for up to {max(0.0, seconds):.3f} s")
            return seconds

        if device.unfence:
            await self._check_registered(device, left, does, say)
        for_status = 0 if device.prepare else min(STATUS_SECONDS, STATUS_PART * left())
        off = await self.call(device, "off", does("off", left() - for_status), say)
        if device.prepare:
            if not off.succeeded:
                raise DeviceError(f"off failed, {off}")
            return time.monotonic()
        if device.unfence and not off.succeeded:
            raise DeviceError(f"off failed, {off}, so nothing shows that the host is kept out")
        what = "off succeeded" if off.succeeded else f"off failed, {off}"
        failures, problem = 0, ""
        does("status", left())
        once = _once(say)
        while True:
            asked = time.monotonic()
            try:
                answer = await self.status(device, left(), once)
            except Silent as error:
                if problem and off.over_limit is None:
                    # It did answer before; there was no time for another answer.
                    raise DeviceError(problem) from None
                raise Silent(problem or _unproven(off, str(error))) from None
            except Unusable:
                raise
            except DeviceError as error:
                failures += 1
                problem = _unproven(off, str(error))
            else:
                if answer == "off":
                    return asked
                failures = 0
                problem = f"{what}, but by its status it is {answer}"
            # A refused `off` changes nothing, so polling is pointless; but `status` may fail once.
            refused = not off.succeeded and off.over_limit is None
            if (refused and failures != 1) or left() <= STATUS_PAUSE:
                if failures and off.over_limit is not None:
                    raise Silent(problem)
                raise DeviceError(problem)
            await asyncio.sleep(STATUS_PAUSE)

    async def _check_registered(
        self,
        device: Device,
        left: Callable[[], float],
        does: Callable[[str, float], float],
        say: Callable[[str], None],
    ) -> None:
        """Checks that a device knows the host: it says "off" for every unknown host."""
        if await self.status(device, does("status", left()), say) == "on":
            return
        if device not in self.registrations:
            raise DeviceError(
                "it says off, and was never seen to be on: that is no proof, as the device says so "
                "of every host that it does not know"
            )
        own = self.own(device)
        if own is None:
            raise DeviceError(
                "it says off, and whether it keeps hosts out at all cannot be known, as the hosts "
                "file has no such device for this host"
            )
        if await self.status(own, does(f"status of this host by {own}", left()), say) != "on":
            raise DeviceError(
                f"it says off, but also of this host, by {own}: it may have lost its registrations"
            )

    async def switch_on(self, device: Device, seconds: float, say: Callable[[str], None]) -> None:
        """Switches a host on, or lets it in; raises DeviceError."""
        ending = await self.call(device, "on", min(seconds, ON_SECONDS), say)
        if not ending.succeeded:
            raise DeviceError(f"on failed, {ending}")


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Wraps `say` so that it gets each line only once."""
    said = set()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return say_once


def _unproven(off: process.Ending, why: str) -> str:
    if off.succeeded:
        return f"off succeeded, but is not proven: {why}"
    return f"off failed, {off}; {why}"


def find_agent(device: Device) -> str:
    """The path of a device's fence agent; raises Unusable."""
    found = None
    if os.path.dirname(device.agent):
        found = device.agent if os.access(device.agent, os.X_OK) else None
    else:
        places = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_PATH])
        found = shutil.which(device.agent, path=places)
    if not found or not os.path.isfile(found):
        raise Unusable(
            device,
            device.agent_line,
            f"there is no fence agent {device.agent}; install the package that has it, "
            "or name another by its whole path",
        )
    try:
        # A shell's own exit status may be 2.
        why = "it has no #! line" if process.interpreter(found) else ""
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise Unusable(device, device.agent_line, f"{found} cannot be run: {why}")
    return found


def _check_actions(device: Device, metadata: Metadata) -> None:
    """Refuses actions that the agent lacks, or that would prove nothing."""

    def refuse(line: int, what: str) -> Unusable:
        return Unusable(device, line, f"{device.agent} {what}")

    if "off" not in metadata.actions:
        raise refuse(device.agent_line, "has no action off, so it cannot fence")
    if "status" not in metadata.actions and not device.prepare:
        raise refuse(
            device.agent_line,
            "has no action status, so nothing can prove that it has fenced; with prepare = yes it "
            "can prepare what the next level does",
        )
    if device.action == "reboot" and not {"reboot", "on"} <= metadata.actions:
        raise refuse(
            device.action_line,
            "has no action reboot, so it would let a host that still runs write again; "
            "use action = off",
        )
    if metadata.unfencing and not device.unfence:
        raise refuse(
            device.agent_line,
            "keeps out only hosts that it has let in, which its word off does not tell from "
            "others; with unfence = yes the agent on each host lets its own host in, and makes "
            "sure of that",
        )
    if device.unfence and "on" not in metadata.actions:
        raise refuse(device.words["unfence"], "has no action on, so it cannot let a host in")


def _parameters(device: Device, metadata: Metadata) -> tuple[dict[str, str], dict[str, Value]]:
    """The agent's parameters, by its own names, and the files of its secrets; raises Unusable."""
    for word in WORDS:
        if word != "action" and word in metadata.spelling and word in device.words:
            raise Unusable(
                device,
                device.words[word],
                f"{word} is a parameter of {device.agent}, too: write {PARAMETER}{word} for that, "
                f"and leave {word} out",
            )
    given: dict[str, str] = {}
    files: dict[str, Value] = {}
    # The value that sets each parameter, by its present name.
    set_by: dict[str, Value] = {}
    for key, value in device.values.items():
        secret = "" if key in metadata.spelling else secret_of(key)
        key = secret or key
        if key not in metadata.spelling or key == "action":
            name = value.name if not secret else f"{value.name}, as it has no {secret}"
            raise Unusable(
                device,
                value.line,
                f"{device.agent} has no parameter {name}; see: {device.agent} -o metadata",
            )
        other = set_by.setdefault(metadata.present[key], value)
        if other is not value:
            raise Unusable(
                device,
                value.line,
                f"{value.name} is another name of {other.name}, which is set in line "
                f"{other.line} already; set it once",
            )
        if secret:
            files[metadata.spelling[key]] = value
        else:
            given[metadata.spelling[key]] = value.value
    _check_required(device, metadata, set(set_by))
    return given, files


def _check_required(device: Device, metadata: Metadata, given: set[str]) -> None:
    required = set(metadata.required)
    if "key" in given:
        # The plug is only needed to make the key.
        required.discard("plug")
    if "port_as_ip" in metadata.spelling and not given & {"ip", "plug"}:
        # An address is required; the metadata says otherwise, as there are two ways to give it.
        required.add("ip")
    missing = sorted(required - given)
    if missing:
        raise Unusable(
            device, device.line, f"{device.agent} needs {', '.join(missing)} for {device.host}"
        )


def _check_ipmitool(device: Device, metadata: Metadata, files: Mapping[str, Value]) -> None:
    """Refuses anything that would put a secret on ipmitool's command line."""
    for name, value in files.items():
        if metadata.present.get(name, name) != "password":
            raise Unusable(
                device,
                value.line,
                f"ipmitool would show {name} to every user of this host; "
                "leave it out, and let the BMC ask for a password only",
            )
    if IPMITOOL_PATH in device.values:
        raise Unusable(
            device,
            device.values[IPMITOOL_PATH].line,
            "ipmitool is called in a way that hides the password; "
            "leave ipmitool_path out, and have ipmitool in PATH",
        )


def quoted(secret: str) -> str:
    """A secret as fence agents read it: they strip quotation marks around it."""
    return f'"{secret}"' if secret[:1] == secret[-1:] == '"' else secret


def hiding(secrets: Iterable[str]) -> Callable[[str], str]:
    """Returns a function that hides secrets in a line, in the spellings that programs print."""
    spellings = set()
    for secret in secrets:
        spellings |= {secret, repr(secret)[1:-1], urllib.parse.quote(secret, safe="")}
    # One may contain another.
    longest_first = sorted(spellings, key=len, reverse=True)

    def hide(line: str) -> str:
        if len(line.encode()) >= process.LONGEST_LINE - len(REPLACEMENT.encode()):
            line = _hide_cut(line.rstrip(REPLACEMENT), longest_first)
        for secret in longest_first:
            line = line.replace(secret, HIDDEN)
        return line

    return hide


def _hide_cut(line: str, secrets: Sequence[str]) -> str:
    """Hides the beginning of a secret at the end of a line that was cut."""
    lengths = [
        length
        for secret in secrets
        for length in range(1, len(secret) + 1)
        if line.endswith(secret[:length])
    ]
    return line[: -max(lengths)] + HIDDEN if lengths else line
