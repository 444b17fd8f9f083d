# SPDX-License-Identifier: GPL-2.0-only
"""Which devices fence which host: the hosts file.

Each host has a section with its addresses, a fence agent and that agent's parameters, by the
agent's own names. Sections called `[HOST level 2]` and so on hold what to try where the levels
before failed:

    [node1]
    address = 10.0.0.11, fd00::11
    agent = fence_ipmilan
    ip = 10.0.9.11
    username = fencing
    password_file = /etc/scoutfs/bmc.password

    [node1 level 2]
    agent = fence_apc_snmp
    ip = 10.0.9.200
    plug = 3
    community_file = /etc/scoutfs/pdu.community

A secret stands in a file of its own, and is read from there each time that it is used.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scoutfs_fenced.addresses import Address, parse_address

HEADER = re.compile(r"\[\s*([^\s\[\]]+)(?:\s+level\s+([1-9][0-9]{0,3}))?\s*\]")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

# What fence agents call their secrets; where another has a secret, its name is like these.
SECRET = re.compile(
    r".*passw(or)?d|.*passphrase|.*community|.*secret(_key)?|access_key|private_key"
    r"|.*api_?key|.*token|hexadecimal_kg"
)
SECRET_SCRIPT = re.compile(r".*passw(or)?d_script")

# An agent made to tell more tells it to the system's log and to files too, secrets included.
TALKATIVE = ("verbose", "verbose_level", "debug", "debug_file")

# These give ipmitool the password as an argument, which everybody sees in /proc until ipmitool has
# overwritten it. The program here is run in its place, and is given the name of the secret's file.
IPMITOOL_AGENTS = (
    "fence_idrac",
    "fence_ilo3",
    "fence_ilo4",
    "fence_ilo5",
    "fence_imm",
    "fence_ipmilan",
    "fence_ipmilanplus",
)
IPMITOOL = Path(__file__).resolve().parent / "ipmitool-password-file"

# After a fence agent's own `reboot` the power is on, which proves nothing. So it is made of `off`,
# the proof, and `on`.
ACTIONS = ("off", "reboot")

# Where fence agents are that a service's PATH leaves out.
SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")

LONGEST_SECRET = 65536


class HostsError(Exception):
    """What is wrong with a hosts file, as a sentence, and in which line."""

    def __init__(self, line: int | None, what: str) -> None:
        self.line = line
        self.what = what
        super().__init__(what)


class SecretError(Exception):
    """Why a secret cannot be used, as a sentence."""


@dataclass(frozen=True)
class Device:
    """One level of a host: a fence agent, and what it is told."""

    host: str
    level: int
    agent: str
    action: str
    limit: float
    parameters: Mapping[str, str]
    # By name, the files that hold them.
    secrets: Mapping[str, str]
    # Whether the agent is given the files' names, and not what they hold.
    secrets_by_file: bool

    def __str__(self) -> str:
        return f"{self.host} level {self.level} by {os.path.basename(self.agent)}"


@dataclass(frozen=True)
class Host:
    """A host that can be fenced, by its devices in the order in which to try them."""

    name: str
    addresses: Sequence[Address]
    devices: Sequence[Device]


class Hosts:
    """All hosts that can be fenced by devices."""

    def __init__(self, hosts: Sequence[Host] = ()) -> None:
        self._hosts = tuple(hosts)
        self._by_address = {address: host for host in hosts for address in host.addresses}

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def host(self, address: str) -> Host | None:
        """The host that has this address, in any spelling; None if there is none."""
        try:
            return self._by_address.get(parse_address(address))
        except ValueError:
            return None

    def devices(self, address: str) -> Sequence[Device]:
        """The devices of the host that has this address; none if there is no such host."""
        host = self.host(address)
        return host.devices if host else ()


@dataclass
class Section:
    """What stands below one header, with the numbers of the lines."""

    host: str
    level: int
    line: int
    values: dict[str, tuple[int, str, str]] = field(default_factory=dict)


def read_hosts(path: str) -> Hosts:
    """Reads the file, and makes sure of all that can be seen without asking a device."""
    try:
        text = os.fsdecode(Path(path).read_bytes())
    except OSError as error:
        raise HostsError(
            None,
            f"the hosts file cannot be read: {error.strerror}; write it, "
            "or name another with SCOUTFS_FENCED_HOSTS",
        ) from error
    return Reader().read(text)


class Reader:
    """Makes hosts of a file's text; raises HostsError where it cannot."""

    def read(self, text: str) -> Hosts:
        """All hosts, each with its levels."""
        levels: dict[str, list[Section]] = {}
        for section in self._sections(text):
            before = levels.setdefault(section.host, [])
            if section.level <= len(before):
                first = before[section.level - 1].line
                raise HostsError(
                    section.line,
                    f"level {section.level} of {section.host} is in line {first} already; "
                    f"call this one [{section.host} level {len(before) + 1}]",
                )
            if section.level > len(before) + 1:
                raise HostsError(
                    section.line,
                    f"level {len(before) + 1} of {section.host} has to come before this one",
                )
            before.append(section)

        hosts = []
        taken: dict[Address, int] = {}
        for name, sections in levels.items():
            addresses = self._addresses(sections, taken)
            hosts.append(Host(name, addresses, [self._device(section) for section in sections]))
        return Hosts(hosts)

    def _sections(self, text: str) -> Sequence[Section]:
        sections: list[Section] = []
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()
            if not line or line[0] in "#;":
                continue
            if line[0] == "[":
                header = HEADER.fullmatch(line)
                if not header:
                    raise HostsError(number, "a section begins with [HOST] or [HOST level 2]")
                sections.append(Section(header[1], int(header[2] or 1), number))
                continue
            name, equals, value = (part.strip() for part in line.partition("="))
            if not equals or not NAME.fullmatch(name):
                raise HostsError(
                    number,
                    "this is neither a section, as [HOST], nor a parameter, as NAME = VALUE",
                )
            if not sections:
                raise HostsError(number, f"{name} belongs below the [HOST] that it is for")
            if not value.isprintable():
                raise HostsError(number, f"the value of {name} holds a control character")
            self._add(sections[-1], number, name, value)
        return sections

    def _add(self, section: Section, number: int, name: str, value: str) -> None:
        # Fence agents take either spelling.
        key = name.replace("-", "_").lower()
        if key in section.values:
            first = section.values[key][0]
            raise HostsError(number, f"{name} is set in line {first} already; set it once")
        section.values[key] = number, name, value

    def _addresses(self, sections: Sequence[Section], taken: dict[Address, int]) -> list[Address]:
        first, *others = sections
        for section in others:
            if "address" in section.values:
                raise HostsError(
                    section.values["address"][0],
                    f"address belongs below [{section.host}], for all levels",
                )
        number, _, text = first.values.get("address", (first.line, "", ""))
        words = re.split(r"[\s,]+", text) if text else []
        if not words:
            raise HostsError(
                number, f"{first.host} needs an address, as in: address = 10.0.0.11, fd00::11"
            )
        addresses = []
        for word in words:
            try:
                address = parse_address(word)
            except ValueError:
                raise HostsError(number, f"'{word}' is not an IPv4 or IPv6 address") from None
            if address in taken:
                raise HostsError(
                    number,
                    f"{address} is in line {taken[address]} already; it belongs to one host",
                )
            taken[address] = number
            addresses.append(address)
        return addresses

    def _device(self, section: Section) -> Device:
        values = dict(section.values)
        values.pop("address", None)

        def take(name: str, default: str) -> tuple[int, str]:
            number, _, value = values.pop(name, (section.line, name, default))
            return number, value

        agent = self._agent(*take("agent", ""))
        action = self._action(*take("action", "off"))
        limit = self._limit(*take("limit", "inf"))
        parameters: dict[str, str] = {}
        secrets: dict[str, str] = {}
        for key, (number, name, value) in values.items():
            secret = self._secret(number, key, value)
            if secret:
                secrets[secret] = value
            else:
                parameters[name] = value
        by_file = bool(secrets) and os.path.basename(agent) in IPMITOOL_AGENTS
        if by_file:
            self._check_ipmitool(section, secrets)
            parameters["ipmitool_path"] = str(IPMITOOL)
        return Device(
            section.host, section.level, agent, action, limit, parameters, secrets, by_file
        )

    def _agent(self, number: int, agent: str) -> str:
        if not agent:
            raise HostsError(number, "there is no agent, as in: agent = fence_ipmilan")
        places = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_PATH])
        if os.path.dirname(agent):
            found = agent if os.path.isabs(agent) and os.access(agent, os.X_OK) else None
        else:
            found = shutil.which(agent, path=places)
        if not found or not os.path.isfile(found):
            raise HostsError(
                number,
                f"there is no fence agent {agent}; install the package that has it, "
                "or name another by its whole path",
            )
        return found

    def _action(self, number: int, action: str) -> str:
        if action not in ACTIONS:
            raise HostsError(number, f"the action is {' or '.join(ACTIONS)}, not '{action}'")
        return action

    def _limit(self, number: int, text: str) -> float:
        try:
            limit = float(text)
        except ValueError:
            limit = math.nan
        if not limit > 0:
            raise HostsError(
                number, f"the limit must be a positive number of seconds, not '{text}'"
            )
        return limit

    def _secret(self, number: int, key: str, value: str) -> str:
        """The name of the secret that a parameter says the file of, or nothing."""
        if SECRET.fullmatch(key):
            raise HostsError(
                number,
                "a secret must not stand here: write it into a file that only root may read, "
                f"and name that with {key}_file",
            )
        if SECRET_SCRIPT.fullmatch(key):
            secret = key[: -len("_script")]
            raise HostsError(
                number,
                "a secret that a script prints cannot be kept out of the log; "
                f"name a file that holds it with {secret}_file",
            )
        if key in TALKATIVE:
            raise HostsError(
                number,
                f"{key} would make the fence agent write secrets into logs of its own; "
                "leave it out, and call the fence agent by hand to see more",
            )
        secret = key[: -len("_file")] if key.endswith("_file") else ""
        if not SECRET.fullmatch(secret):
            return ""
        try:
            read_secret(value)
        except SecretError as error:
            raise HostsError(number, str(error)) from error
        return secret

    def _check_ipmitool(self, section: Section, secrets: Mapping[str, str]) -> None:
        """Nothing may bring a secret onto ipmitool's command line."""
        for secret in secrets:
            if secret not in ("password", "passwd"):
                raise HostsError(
                    section.values[f"{secret}_file"][0],
                    f"ipmitool would show {secret} to every user of this host; "
                    "leave it out, and let the BMC ask for a password only",
                )
        if "ipmitool_path" in section.values:
            raise HostsError(
                section.values["ipmitool_path"][0],
                "ipmitool is called in a way that hides the password; "
                "leave ipmitool_path out, and have ipmitool in PATH",
            )


def read_secret(path: str) -> str:
    """A secret from its file, which nobody else may read; raises SecretError."""
    if not os.path.isabs(path):
        raise SecretError(f"the file of a secret is named by its whole path, not '{path}'")
    try:
        # What is not a file at all must not keep anybody waiting.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise SecretError(f"the secret in {path} cannot be read, as that is not a file")
            content = os.read(file, LONGEST_SECRET)
        finally:
            os.close(file)
    except OSError as error:
        raise SecretError(f"cannot read the secret in {path}: {error.strerror}") from error
    if status.st_uid not in (0, os.geteuid()):
        raise SecretError(
            f"the secret in {path} belongs to another user; take it with: chown root {path}"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise SecretError(
            f"the secret in {path} is open to other users; close it with: chmod 600 {path}"
        )
    secret = os.fsdecode(content[:-1] if content.endswith(b"\n") else content)
    if not secret or not secret.isprintable() or secret != secret.strip():
        raise SecretError(
            f"the secret in {path} has to be one line of text, without blanks at its ends"
        )
    return secret
