# SPDX-License-Identifier: GPL-2.0-only
"""The configuration file, read as the shell reads it.

scoutfs's own agent, a shell script, sources this file. So a shell reads it here as well, bash if
there is one, and whatever the file exports is in the environment of the fence commands.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable, TypeVar

from scoutfs_fenced import process
from scoutfs_fenced.hosts import Hosts, HostsError, read_hosts
from scoutfs_fenced.request import DEFAULT_LEADER_TIMEOUT

Default = TypeVar("Default")

DEFAULT_PATH = "/etc/scoutfs/scoutfs-fenced.conf"

# The hosts file that is read if it exists and no other is named.
DEFAULT_HOSTS = "/etc/scoutfs/scoutfs-fenced.hosts"

# Names another configuration file.
PATH_VARIABLE = "SCOUTFS_FENCED_CONFIG_FILE"

# Seconds that the shell may take.
SECONDS_TO_READ = 10.0

# Bounds of a pause: without one, nothing else would run.
SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 10 * 86400.0

# Numbers and units as sleep(1) takes them.
SPAN = re.compile(
    r"[+]?(0x[0-9a-f.]+(p[+-]?[0-9]+)?|[0-9.]+(e[+-]?[0-9]+)?|inf|infinity)", re.IGNORECASE
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# How many bytes of a command are read to see what it fences.
LONGEST_SCRIPT = 1 << 20

VARIABLES = (
    "SCOUTFS_FENCED_DELAY",
    "SCOUTFS_FENCED_RUN",
    "SCOUTFS_FENCED_RUN_FENCES",
    "SCOUTFS_FENCED_HOSTS",
    "SCOUTFS_FENCED_PARALLEL",
    "SCOUTFS_FENCED_LIMIT",
    "SCOUTFS_FENCED_LEADER_TIMEOUT",
    "SCOUTFS_FENCED_RETRIES",
    "SCOUTFS_FENCED_RETRY_PAUSE",
    "SCOUTFS_FENCED_STOP_TIMEOUT",
    "SCOUTFS_FENCED_HOOK",
    "SCOUTFS_FENCED_METRICS",
    "SCOUTFS_FENCED_MONITOR",
)

# The shell's script: $0 is the shell, $1 the configuration. The latter may print anything, so the
# answer goes to a file of its own. A line that cannot be run is an error; one that merely fails,
# such as a test, is not. The shell splits the arguments, as administrators' files expect.
READ = """
"$0" -n "$1" || exit
if [ -n "${BASH_VERSION-}" ]; then
	trap 'case $? in 126 | 127) exit ;; esac' ERR
fi
. "$1" >&2
set +e -f
{
	printf '%%s\\0' %(values)s
	set -- ${SCOUTFS_FENCED_RUN_ARGS-}
	printf '%%s\\0' "$#" "$@"
	/usr/bin/env -0
} >%(answer)s
"""


class ConfigurationError(Exception):
    """What is wrong with a configuration, as a sentence that names the file and the line."""

    def __init__(self, path: str, line: int | None, what: str) -> None:
        self.path = path
        self.line = line
        self.what = what
        super().__init__(f"{path}{'' if line is None else f', line {line}'}: {what}")


class UnreadConfigurationError(ConfigurationError):
    """Why a configuration, which may be right, cannot be read at the moment."""


# Why a file cannot be opened until a person mends that. Other errors pass: no memory, no free file.
LASTING = (
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)


@dataclass(frozen=True)
class Configuration:
    """The values of a configuration file."""

    # The file that it was read from.
    path: str
    # Seconds between two scans of sysfs.
    delay: float = 2
    # Seconds after which scoutfs gives up a request for the host of a former leader.
    leader_timeout: float = DEFAULT_LEADER_TIMEOUT
    # The hosts that are fenced by devices.
    hosts: Hosts = field(default_factory=Hosts, repr=False)
    # Their file; empty if there is none.
    hosts_path: str = ""
    # The fence command for all others, and its arguments; empty if there is none.
    command: tuple[str, ...] = ()
    # Whether its success covers every mount of the host, not only the one that it was given.
    fences_host: bool = True
    # How many commands may run at a time.
    parallel: int = 32
    # Seconds that an attempt may take; by default as long as the kernel waits.
    limit: float | None = None
    # How often a failed command is retried; by default as long as there is time.
    retries: int | None = None
    # Seconds before a retry.
    retry_pause: float = 1
    # Seconds that running commands get to end when the agent stops.
    stop_timeout: float = 30
    # Seconds between two polls of each fence device's status; 0 for none.
    monitor: float = 300
    # The program that is run for events, and the file of metrics; empty for none.
    hook: str = ""
    metrics: str = ""
    # The commands' environment.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def no_such_host(self) -> str:
        """Says so, with the file: a shell may read another one than the agent."""
        if not self.hosts_path:
            return f"{self.path} names no hosts file"
        return f"the hosts file {self.hosts_path} has no such host"


def chosen_path() -> str:
    """The configuration file that the environment names, or the default one."""
    return os.environ.get(PATH_VARIABLE) or DEFAULT_PATH


async def read(path: str, say: Callable[[str], None]) -> Configuration:
    """Reads a configuration, or raises ConfigurationError.

    It is an UnreadConfigurationError if reading it again may help, without any change.
    If the file is valid, `say` gets what the shell printed while reading it.
    """
    path = os.path.abspath(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as error:
        what = f"the configuration cannot be read: {error.strerror}"
        if error.errno not in LASTING:
            raise UnreadConfigurationError(path, None, what) from error
        raise ConfigurationError(
            path, None, f"{what}; write it, or name another with {PATH_VARIABLE}"
        ) from error
    try:
        answer = await _ask_shell(path, say)
    except OSError as error:
        raise UnreadConfigurationError(path, None, f"no shell reads it: {error}") from error
    given = {name: value[1:] for name, value in zip(VARIABLES, answer) if value}
    count, *rest = answer[len(VARIABLES) :]
    arguments, exported = rest[: int(count)], rest[int(count) :]
    values = _Values(path, text, given)
    hosts_path = values.hosts_path("SCOUTFS_FENCED_HOSTS")
    hosts = values.hosts(hosts_path)
    command = values.command("SCOUTFS_FENCED_RUN", arguments, needed=not list(hosts))
    return Configuration(
        path=path,
        delay=values.pause("SCOUTFS_FENCED_DELAY", 2.0),
        leader_timeout=values.number("SCOUTFS_FENCED_LEADER_TIMEOUT", DEFAULT_LEADER_TIMEOUT),
        hosts=hosts,
        hosts_path=hosts_path,
        command=command,
        fences_host=values.choice(
            "SCOUTFS_FENCED_RUN_FENCES",
            ("host", "mount"),
            "mount" if _names_rid(command) else "host",
        )
        == "host",
        parallel=values.count("SCOUTFS_FENCED_PARALLEL", 32, least=1),
        limit=values.number("SCOUTFS_FENCED_LIMIT", None),
        retries=values.count("SCOUTFS_FENCED_RETRIES", None),
        retry_pause=values.number("SCOUTFS_FENCED_RETRY_PAUSE", 1.0, zero=True),
        stop_timeout=values.number("SCOUTFS_FENCED_STOP_TIMEOUT", 30.0, zero=True),
        monitor=values.number("SCOUTFS_FENCED_MONITOR", 300.0, zero=True),
        hook=values.program("SCOUTFS_FENCED_HOOK"),
        metrics=values.metrics("SCOUTFS_FENCED_METRICS"),
        environment=dict(line.split("=", 1) for line in exported if "=" in line),
    )


async def _ask_shell(path: str, say: Callable[[str], None]) -> list[str]:
    """Has the shell read the file; returns values, arguments and environment.

    A value that is not set is empty; any other begins with an equals sign.
    """
    said: list[str] = []
    shell = process.shell()
    with os.fdopen(os.memfd_create("configuration"), "rb") as answer:
        script = READ % {
            "values": " ".join(f'"${{{name}+=${name}}}"' for name in VARIABLES),
            "answer": f"/proc/{os.getpid()}/fd/{answer.fileno()}",
        }
        ending = await process.run(
            [shell, "-c", script, shell, path],
            environment=os.environ,
            limit=SECONDS_TO_READ,
            say=said.append,
        )
        values = os.fsdecode(answer.read()).split("\0")[:-1]
    if ending.status is None:
        # The shell's message about a signal that ends it is not an error in a line.
        raise UnreadConfigurationError(path, None, f"the shell cannot read it, {ending}")
    if not ending.succeeded:
        raise _refusal(path, said, str(ending))
    if len(values) <= len(VARIABLES):
        raise ConfigurationError(path, None, "it must not end the shell that reads it")
    for line in said:
        say(f"the configuration {path} says: {line}")
    return values


def _refusal(path: str, said: list[str], ending: str) -> ConfigurationError:
    """Why the shell could not read a file: each shell names the line in its own way."""
    for text in said:
        found = re.match(rf".*{re.escape(path)}: (?:line )?(\d+): (.*)", text)
        if found:
            return ConfigurationError(path, int(found[1]), f"the shell says: {found[2]}")
    more = f": {'; '.join(said)}" if said else ""
    return ConfigurationError(path, None, f"the shell cannot read it, {ending}{more}")


def parse_span(text: str) -> float:
    """The seconds of one span as sleep(1) takes it; raises ValueError."""
    hexadecimal = "x" in text.lower()
    # A final d is a digit of a hexadecimal number, but a unit after its exponent.
    is_digit = hexadecimal and text[-1:] == "d" and "p" not in text.lower()
    unit = None if is_digit else UNITS.get(text[-1:])
    number = text[:-1] if unit else text
    if not SPAN.fullmatch(number):
        raise ValueError(text)
    try:
        value = float.fromhex(number) if hexadecimal else float(number)
    except OverflowError:
        value = math.inf
    return value * (unit or 1)


def _names_rid(command: Sequence[str]) -> bool:
    """Whether a command, or a script among its arguments, reads the rid of the mount to fence.

    Then it may fence only that mount, as a command that unmounts does.
    """
    for path in command:
        try:
            with open(path, "rb") as file:
                if b"SCOUTFS_FENCED_REQ_RID" in file.read(LONGEST_SCRIPT):
                    return True
        except (OSError, ValueError):
            continue
    return False


class _Values:
    """The values of a file, checked as they are taken."""

    def __init__(self, path: str, text: str, given: Mapping[str, str]) -> None:
        self._path = path
        self._text = text
        self._given = given

    def wrong(self, name: str, what: str) -> ConfigurationError:
        """An error in the line that sets a variable, if there is one."""
        assignment = re.compile(rf"(?:.*[\s;])?{name}=")
        lines = enumerate(self._text.splitlines(), 1)
        found = [number for number, line in lines if assignment.match(line)]
        return ConfigurationError(self._path, found[-1] if found else None, f"{name} {what}")

    def number(self, name: str, default: Default, *, zero: bool = False) -> float | Default:
        """A span in seconds."""
        text = self._given.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            kind = "a number of seconds" if zero else "a positive number of seconds"
            raise self.wrong(name, f"must be {kind}, not '{text}'")
        return value

    def pause(self, name: str, default: float) -> float:
        """A pause as sleep(1) takes it: one or more spans, with or without a unit, added up."""
        text = self._given.get(name)
        if text is None:
            return default
        try:
            seconds = sum(map(parse_span, text.split())) if text.strip() else math.nan
        except ValueError:
            seconds = math.nan
        if math.isnan(seconds):
            raise self.wrong(
                name,
                "must be a number of seconds, or what else sleep takes, as in 0.5 or 1m 30s, "
                f"not '{text}'",
            )
        return min(max(seconds, SHORTEST_PAUSE), LONGEST_PAUSE)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """One of the choices."""
        text = self._given.get(name) or default
        if text not in choices:
            raise self.wrong(name, f"must be {' or '.join(choices)}, not '{text}'")
        return text

    def count(self, name: str, default: Default, *, least: int = 0) -> int | Default:
        """A whole number."""
        text = self._given.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < least:
            raise self.wrong(name, f"must be a whole number from {least} on, not '{text}'")
        return int(text)

    def hosts_path(self, name: str) -> str:
        """The path of the named hosts file, or of the default one; empty if there is neither."""
        return self._given.get(name, DEFAULT_HOSTS if os.path.exists(DEFAULT_HOSTS) else "")

    def hosts(self, path: str) -> Hosts:
        """The hosts in a file; none for an empty path."""
        try:
            return read_hosts(path) if path else Hosts()
        except HostsError as error:
            cause = error.__cause__
            passes = isinstance(cause, OSError) and cause.errno not in LASTING
            kind = UnreadConfigurationError if passes else ConfigurationError
            raise kind(path, error.line, error.what) from error

    def command(self, name: str, arguments: list[str], *, needed: bool) -> tuple[str, ...]:
        """A command, checked to be executable, and its arguments."""
        path = self._given.get(name)
        if not path and not needed:
            return ()
        if not path:
            raise self.wrong(name, "must be set to the path of the fence command")
        return (self.program(name), *arguments)

    def program(self, name: str) -> str:
        """The path of an executable program; empty if none is named."""
        path = self._given.get(name, "")
        if path and not (os.path.isfile(path) and os.access(path, os.X_OK)):
            raise self.wrong(name, f"is not an executable file: {path}")
        if path:
            try:
                process.interpreter(path)
            except OSError as error:
                if error.errno == errno.ENOEXEC:
                    raise self.wrong(name, f"names {path}, but {error.strerror}") from error
                what = f"{path} cannot be read: {error.strerror}"
                raise UnreadConfigurationError(self._path, None, what) from error
        return path

    def metrics(self, name: str) -> str:
        """The path of a file that node_exporter reads; empty if none is named."""
        path = self._given.get(name, "")
        stem, extension = os.path.splitext(os.path.basename(path))
        if path and not (path.startswith("/") and stem and extension == ".prom"):
            raise self.wrong(name, f"must be a whole path that ends with .prom, not '{path}'")
        return path
