# SPDX-License-Identifier: GPL-2.0-only
"""The hosts file: which devices fence which host. scoutfs-fenced.hosts(5) describes it.

Each host has a section with its addresses, a fence agent and that agent's parameters. Sections
`[HOST level 2]` and so on are topology levels, tried when the previous levels have failed. Devices
that must all be off are sections of one level, each with its own name:

    [defaults]
    agent = fence_ipmilan
    username = fencing
    password_file = /etc/scoutfs/bmc.password

    [node[1-100]]
    address = 10.0.0.{number}, fd00::{number}
    ip = 10.0.9.{number}

    [node[1-100] level 2 device left]
    agent = fence_apc_snmp
    ip = 10.0.9.200
    plug = {number}

    [node[1-100] level 2 device right]
    agent = fence_apc_snmp
    ip = 10.0.9.201
    plug = {number}

Only the form of the file is checked here; device.py checks parameters against their fence agent. A
missing fence agent or secret does not affect other hosts' devices.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from scoutfs_fenced.addresses import Address, is_own, parse_address
from scoutfs_fenced.metadata import key_of

# A range is part of a host's name: node[1-16,20].
HEADER = re.compile(
    r"\[\s*(?P<host>[^\s\[\]]+|[^\s\[\]]*\[(?P<range>[0-9,-]+)\][^\s\[\]]*)"
    r"(?:\s+level\s+(?P<level>[1-9][0-9]{0,3}))?"
    r"(?:\s+device\s+(?P<device>[^\s\[\]]+))?\s*\]"
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
PLACEHOLDER = re.compile(r"\{([A-Za-z]+)([+-][0-9]{1,6})?\}")
NUMBER_AT_END = re.compile(r"[0-9]+$")
COMMENT = re.compile(r"\s[#;]")

DEFAULTS = "defaults"

# More hosts than any cluster has; a mistyped range must not fill the memory.
MOST_HOSTS = 4096

# The file's own words, which are not fence agent parameters.
WORDS = ("address", "agent", "action", "limit", "prepare", "sessions", "unfence")

# Prefix for a fence agent parameter that is called like one of these words.
PARAMETER = "parameter."

# How fence agents name their secrets; other agents use similar names.
SECRET = re.compile(
    r".*passw(or)?d|.*passphrase|.*community|.*secret(_key)?|access_key|private_key"
    r"|.*api_?key|.*token|hexadecimal_kg"
)
SECRET_SCRIPT = re.compile(r".*passw(or)?d_script")

# With these, agents also write to the system's log and to files, secrets included.
TALKATIVE = ("verbose", "verbose_level", "debug", "debug_file")

# Parameters that do not tell one device from another: times, logins, and the files of secrets.
TIME = re.compile(r".*(timeout|wait|delay|sleep)|retry_on|retries")
LOGIN = re.compile(r"login|.*user(name)?|identity_file")

# Old names of parameters that do, which fence agents still accept.
PRESENT_NAMES = {"ipaddr": "ip", "port": "plug"}

# After a fence agent's own `reboot` the power is on, which proves nothing. So a reboot here is
# `off`, the proof, and `on`.
ACTIONS = ("off", "reboot")

LONGEST_SECRET = 65536


class HostsError(Exception):
    """What is wrong with a hosts file, as a sentence, and its line."""

    def __init__(self, line: int | None, what: str) -> None:
        self.line = line
        self.what = what
        super().__init__(what)


class SecretError(Exception):
    """Why a secret cannot be used, as a sentence."""


@dataclass(frozen=True)
class Value:
    """One parameter of a fence agent, as written in the hosts file."""

    line: int
    name: str
    value: str


@dataclass(frozen=True)
class Device:
    """A device of one topology level: a fence agent and its parameters."""

    host: str
    level: int
    # Its name among several devices of a level.
    name: str
    # The hosts file, and the line of the section.
    path: str
    line: int
    # As written in the file, and its line.
    agent: str
    agent_line: int
    action: str = "off"
    action_line: int = 0
    # Seconds that the device may take.
    limit: float = math.inf
    limit_line: int = 0
    # Whether the device must let this host in, and whether the level only prepares the next one, as
    # the file says.
    unfence: bool = False
    prepare: bool = False
    # How many concurrent logins the device allows; None if the file does not say.
    sessions: int | None = None
    # By key_of(name), without this file's own words.
    values: Mapping[str, Value] = field(default_factory=dict)
    # Lines of this file's own words, by word.
    words: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        name = f" device {self.name}" if self.name else ""
        return f"{self.host} level {self.level}{name} by {os.path.basename(self.agent)}"

    @property
    def identity(self) -> tuple[str, ...]:
        """Which device it is: equal for two entries of one device, however they are written."""
        return self.identity_without(())

    def identity_without(self, names: Collection[str]) -> tuple[str, ...]:
        """The agent's name and those parameters that tell devices apart, except some."""
        parts = []
        for key, value in self.values.items():
            name = PRESENT_NAMES.get(key, key)
            if name in names or any(each.fullmatch(name) for each in (TIME, LOGIN)):
                continue
            if secret_of(name):
                continue
            # Fence agents strip quotation marks.
            text = value.value.strip('"')
            parts.append(f"{name}={text.lower() if name == 'ip' else text}")
        return os.path.basename(self.agent), *sorted(parts)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The fence agent and its parameters, except times: a proof holds as long as these stay.

        Logins count, as a plug of that name may be another host's in another account.
        """
        values = (f"{key}={value.value}" for key, value in self.values.items())
        return self.agent, *sorted(value for value in values if not TIME.match(value.split("=")[0]))

    def says(self, *names: str) -> str:
        """The value of the first of these parameters that is set, or an empty string."""
        return next((self.values[name].value for name in names if name in self.values), "")


@dataclass(frozen=True)
class Level:
    """A topology level: devices that must all be off."""

    number: int
    devices: Sequence[Device]

    @property
    def prepares(self) -> bool:
        """Whether it proves nothing; the next level waits for it to end."""
        return self.devices[0].prepare

    @property
    def reboots(self) -> bool:
        """Whether its devices are switched on again, once the host is proven off."""
        return self.devices[0].action == "reboot"

    @property
    def limit(self) -> float:
        """Seconds that it may take."""
        return max(device.limit for device in self.devices)


@dataclass(frozen=True)
class Host:
    """A host that can be fenced, with its levels in the order in which to try them."""

    name: str
    addresses: Sequence[Address]
    levels: Sequence[Level]

    @property
    def devices(self) -> Sequence[Device]:
        """The devices of all levels."""
        return [device for level in self.levels for device in level.devices]

    @property
    def digest(self) -> str:
        """Digest of its name and of what its devices are: a proof counts only as long as it stays.

        Without secrets, which are in files, and addresses, which are compared on their own.
        """
        levels = [
            [(each.prepare, each.unfence, each.name, each.parameters) for each in devices]
            for devices in (level.devices for level in self.levels)
        ]
        return hashlib.sha256(json.dumps([self.name, levels]).encode()).hexdigest()


class Hosts:
    """All hosts that can be fenced by devices."""

    def __init__(self, hosts: Sequence[Host] = ()) -> None:
        self._hosts = tuple(hosts)
        self._by_address = {address: host for host in hosts for address in host.addresses}

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def host(self, address: str) -> Host | None:
        """The host with this address, in any spelling, or None."""
        try:
            return self._by_address.get(parse_address(address))
        except ValueError:
            return None

    def having(self, own: AbstractSet[Address]) -> list[Host]:
        """The hosts with a loopback address, or one in `own`, the agent's host's addresses.

        With several of them, the agent cannot tell which one is its own: the others' addresses have
        moved to it, by failover or by hand, and those hosts may still run.
        """
        return [host for host in self._hosts if any(is_own(each, own) for each in host.addresses)]

    def by_name(self, name: str) -> Host | None:
        """The host with this name, or None."""
        return next((host for host in self._hosts if host.name == name), None)


@dataclass
class Section:
    """The parameters below one header, for one host, with the numbers of their lines."""

    host: str
    level: int
    device: str
    line: int
    # The number in the host's name, if it has one.
    number: int | None = None
    values: dict[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        name = f"device {self.device} of " if self.device else ""
        return f"{name}level {self.level} of {self.host}"


def read_hosts(path: str) -> Hosts:
    """Reads the file and checks its form; raises HostsError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise HostsError(
            None,
            f"the hosts file cannot be read: {error.strerror}; write it, "
            "or name another with SCOUTFS_FENCED_HOSTS",
        ) from error
    try:
        # Some editors write a byte order mark, which is not part of the text.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise HostsError(line, "this is not text in UTF-8; save the file as UTF-8") from error
    return Reader(path).read(text)


class Reader:
    """Parses a file's text into hosts; raises HostsError."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, text: str) -> Hosts:
        """All hosts, each with its levels."""
        written = self._sections(text)
        defaults = [section for section in written if section.host == DEFAULTS]
        expanded = [
            each for section in written if section.host != DEFAULTS for each in _expand(section)
        ]
        if len(expanded) > MOST_HOSTS:
            raise HostsError(
                expanded[MOST_HOSTS].line, f"these are more than {MOST_HOSTS} sections of hosts"
            )
        levels = self._levels(expanded)
        hosts = []
        taken: dict[Address, int] = {}
        for name, groups in levels.items():
            own = [
                [(section, self._with_defaults(section, defaults)) for section in group]
                for group in groups
            ]
            addresses = self._addresses(own, taken)
            made = [
                self._level(number, [self._device(*each) for each in group])
                for number, group in enumerate(own, 1)
            ]
            if made[-1].prepares:
                raise HostsError(
                    made[-1].devices[0].words["prepare"],
                    f"a level that only prepares is followed by one that fences {name}",
                )
            hosts.append(Host(name, addresses, made))
        self._refuse_copies(hosts)
        return Hosts(hosts)

    def _levels(self, sections: Sequence[Section]) -> dict[str, list[list[Section]]]:
        """The sections of each level, by host."""
        levels: dict[str, list[list[Section]]] = {}
        for section in sections:
            before = levels.setdefault(section.host, [])
            if section.level > len(before) + 1:
                raise HostsError(
                    section.line,
                    f"level {len(before) + 1} of {section.host} has to come before this one",
                )
            if section.level == len(before) + 1:
                before.append([section])
                continue
            group = before[section.level - 1]
            for other in group:
                if section.device and other.device and section.device != other.device:
                    continue
                what = f"{other} is in line {other.line} already; "
                if section.device and section.device == other.device:
                    raise HostsError(section.line, what + "give this device another name")
                raise HostsError(
                    section.line,
                    what + f"call this one [{section.host} level {len(before) + 1}], or, if both "
                    f"have to be off, name both, as in [{section.host} level {section.level} "
                    "device left]",
                )
            group.append(section)
        return levels

    def _sections(self, text: str) -> Sequence[Section]:
        sections: list[Section] = []
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()
            if not line or line[0] in "#;":
                continue
            if line[0] == "[":
                sections.append(self._header(number, line, sections))
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
            if COMMENT.search(value) and not (len(value) > 1 and value[0] == value[-1] == '"'):
                raise HostsError(
                    number,
                    "a comment has a line of its own; if this belongs to the value of "
                    f"{name}, put quotation marks around the value",
                )
            self._add(sections[-1], number, name, value)
        return sections

    def _header(self, number: int, line: str, before: Sequence[Section]) -> Section:
        header = HEADER.fullmatch(line)
        if not header:
            if COMMENT.search(line):
                raise HostsError(number, "a comment has a line of its own")
            raise HostsError(
                number,
                "a section begins with [HOST], [HOST level 2] or [HOST level 2 device NAME]",
            )
        section = Section(header["host"], int(header["level"] or 1), header["device"] or "", number)
        if section.host == DEFAULTS:
            for other in before:
                if other.host == DEFAULTS and _same_place(other, section):
                    raise HostsError(
                        number, f"these defaults are in line {other.line} already; write them there"
                    )
        return section

    def _add(self, section: Section, number: int, name: str, value: str) -> None:
        # Fence agents accept either spelling.
        key = key_of(name)
        if key in section.values:
            first = section.values[key].line
            raise HostsError(number, f"{name} is set in line {first} already; set it once")
        section.values[key] = Value(number, name, value)

    def _with_defaults(self, section: Section, defaults: Sequence[Section]) -> dict[str, Value]:
        """The values of a section, and the defaults that it does not override."""
        values: dict[str, Value] = {}
        # Defaults for one device override those for its level.
        for default in sorted(defaults, key=lambda default: bool(default.device)):
            if default.level == section.level and default.device in ("", section.device):
                values.update(default.values)
        agent = section.values.get("agent")
        if agent is not None and "agent" in values and values["agent"].value != agent.value:
            # Another agent's parameters do not apply to this one.
            values = {key: value for key, value in values.items() if key in WORDS}
        values.update(section.values)
        return {key: _fill_in(value, section) for key, value in values.items()}

    def _addresses(
        self, groups: list[list[tuple[Section, dict[str, Value]]]], taken: dict[Address, int]
    ) -> list[Address]:
        first, values = groups[0][0]
        for group in groups:
            for section, _values in group:
                if section is not first and "address" in section.values:
                    raise HostsError(
                        section.values["address"].line,
                        f"address belongs below the first section of {section.host}, in line "
                        f"{first.line}, for all levels",
                    )
        given = values.get("address", Value(first.line, "", ""))
        words = re.split(r"[\s,]+", given.value) if given.value else []
        if not words:
            raise HostsError(
                given.line, f"{first.host} needs an address, as in: address = 10.0.0.11, fd00::11"
            )
        addresses = []
        for word in words:
            try:
                address = parse_address(word)
            except ValueError:
                raise HostsError(
                    given.line, f"'{word}' is not an IPv4 or IPv6 address, for {first.host}"
                ) from None
            if address.is_unspecified or address.is_multicast:
                # The kernel shows 0.0.0.0 or :: for every mount with an unknown address.
                raise HostsError(given.line, f"{word} is not the address of one host")
            if address in taken:
                raise HostsError(
                    given.line,
                    f"{address} is in line {taken[address]} already; it belongs to one host",
                )
            taken[address] = given.line
            addresses.append(address)
        return addresses

    def _device(self, section: Section, values: dict[str, Value]) -> Device:
        given = {word: values.pop(word) for word in WORDS if word in values}
        values = {
            key_of(value.name[len(PARAMETER) :] if key.startswith(PARAMETER) else key): value
            for key, value in values.items()
        }
        for key, value in values.items():
            _check_name(key, value)
        agent = given.get("agent", Value(section.line, "", ""))
        if not agent.value:
            raise HostsError(agent.line, "there is no agent, as in: agent = fence_ipmilan")
        if os.path.dirname(agent.value) and not os.path.isabs(agent.value):
            raise HostsError(
                agent.line, f"an agent has a name, or its whole path, not '{agent.value}'"
            )
        action = given.get("action", Value(section.line, "", "off"))
        if action.value not in ACTIONS:
            raise HostsError(
                action.line, f"the action is {' or '.join(ACTIONS)}, not '{action.value}'"
            )
        prepare = _yes(given.get("prepare"))
        if prepare and action.value != "off":
            raise HostsError(action.line, "a level that only prepares has the action off")
        return Device(
            host=section.host,
            level=section.level,
            name=section.device,
            path=self._path,
            line=section.line,
            agent=agent.value,
            agent_line=agent.line,
            action=action.value,
            action_line=action.line,
            limit=_limit(given.get("limit")),
            unfence=_yes(given.get("unfence")),
            prepare=prepare,
            sessions=_sessions(given.get("sessions")),
            values=values,
            words={word: value.line for word, value in given.items()},
        )

    def _level(self, number: int, devices: Sequence[Device]) -> Level:
        """A level. All its devices must have the same action and prepare."""
        first = devices[0]
        for other in devices[1:]:
            if (other.action, other.prepare) != (first.action, first.prepare):
                raise HostsError(
                    other.line,
                    f"the devices of level {number} of {first.host} need the same action and the "
                    f"same prepare, as in line {first.line}",
                )
        return Level(number, devices)

    def _refuse_copies(self, hosts: Sequence[Host]) -> None:
        """Refuses a device that is listed twice.

        Two hosts with the same device would be switched off for each other, and a level that lists
        one power supply twice would take it for two.
        """
        seen: dict[tuple[str, ...], Device] = {}
        for device in (device for host in hosts for device in host.devices):
            other = seen.setdefault(device.identity, device)
            if device.prepare or other is device:
                continue
            if device.host == other.host and device.level != other.level:
                continue
            raise HostsError(
                device.line,
                f"this is the same device as {_place(other)} in line {other.line}: the same agent "
                "with the same parameters, except for logins and times; "
                f"give {_place(device)} its own",
            )


def _place(device: Device) -> str:
    return str(Section(device.host, device.level, device.name, device.line))


def _same_place(one: Section, other: Section) -> bool:
    return (one.level, one.device) == (other.level, other.device)


def _expand(section: Section) -> Iterator[Section]:
    """A section for each host of a range."""
    begin, bracket, rest = section.host.partition("[")
    if not bracket:
        found = NUMBER_AT_END.search(section.host)
        section.number = int(found[0]) if found else None
        yield section
        return
    numbers, _, end = rest.partition("]")
    for part in numbers.split(","):
        found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not found:
            raise HostsError(section.line, f"a range is as in node[1-16,20], not [{numbers}]")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= MOST_HOSTS:
            raise HostsError(
                section.line,
                f"the range {part} has to go up, and have no more than {MOST_HOSTS} hosts",
            )
        width = len(found[1]) if found[1][0] == "0" else 1
        for number in range(first, last + 1):
            yield Section(
                f"{begin}{number:0{width}}{end}",
                section.level,
                section.device,
                section.line,
                number,
                section.values,
            )


def _fill_in(value: Value, section: Section) -> Value:
    """Fills the host's name and number into a value."""

    def fill(found: re.Match[str]) -> str:
        word, offset = found[1], int(found[2] or 0)
        if word == "host" and not found[2]:
            return section.host
        if word != "number":
            raise HostsError(
                value.line, f"{found[0]} is not known; there are {{host}}, {{number}}, {{number+1}}"
            )
        if section.number is None:
            raise HostsError(value.line, f"{section.host} has no number for {found[0]}")
        if section.number + offset < 0:
            raise HostsError(value.line, f"{found[0]} is less than 0 for {section.host}")
        return str(section.number + offset)

    return Value(value.line, value.name, PLACEHOLDER.sub(fill, value.value))


def _yes(value: Value | None) -> bool:
    if value is None:
        return False
    if value.value not in ("yes", "no"):
        raise HostsError(value.line, f"{value.name} is yes or no, not '{value.value}'")
    return value.value == "yes"


def _limit(value: Value | None) -> float:
    if value is None:
        return math.inf
    try:
        limit = float(value.value)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise HostsError(
            value.line, f"the limit must be a positive number of seconds, not '{value.value}'"
        )
    return limit


def _sessions(value: Value | None) -> int | None:
    if value is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,3}", value.value):
        raise HostsError(
            value.line, f"sessions must be a whole number from 1 on, not '{value.value}'"
        )
    return int(value.value)


def _check_name(key: str, value: Value) -> None:
    """Refuses parameters that would put a secret into this file or a log, or void a proof."""
    if SECRET.fullmatch(key):
        raise HostsError(
            value.line,
            "a secret is not allowed here: write it into a file that only root may read, "
            f"and name that with {key}_file",
        )
    if SECRET_SCRIPT.fullmatch(key):
        secret = key[: -len("_script")]
        raise HostsError(
            value.line,
            "a secret that a script prints cannot be kept out of the log; "
            f"name a file that holds it with {secret}_file",
        )
    if key in TALKATIVE:
        raise HostsError(
            value.line,
            f"{key} would make the fence agent write secrets into logs of its own; "
            "leave it out, and call the fence agent by hand to see more",
        )
    if key == "missing_as_off":
        raise HostsError(
            value.line,
            "with missing_as_off a misspelt plug would count as a host that is off; leave it out",
        )


def secret_of(key: str) -> str:
    """The name of the secret whose file a parameter names, or an empty string."""
    secret = key[: -len("_file")] if key.endswith("_file") else ""
    return secret if SECRET.fullmatch(secret) else ""


def read_secret(path: str) -> str:
    """Reads a secret from its file, which no other user may read; raises SecretError."""
    if not os.path.isabs(path):
        raise SecretError(f"the file of a secret is named by its whole path, not '{path}'")
    try:
        # O_NONBLOCK: opening a FIFO must not block.
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
