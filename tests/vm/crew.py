# SPDX-License-Identifier: GPL-2.0-only
"""
The userspace half of the torture test, run while kernel threads call every function at once.

Those threads are in tests/torture/fence_torture.c, which also describes how a rid encodes the
writes that it allows. Each member of the crew is a process that runs until it is stopped;
anything unexpected that it sees is an error.
"""

import json
import mmap
import os
import random
import re
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EAGAIN, EINVAL, ENODEV, ENOENT, ESTALE
from pathlib import Path

import kernel
from fence import CaseFailed, Mount, equal, true
from fuzz import say
from uevents import Listener

TORTURE = "fence_torture"
ROOTS = (kernel.FENCE_SYSFS, Path("/sys/kernel/fence_torture"))
FILES = ("rid", "ipv4_addr", "inet_addr", "reason", "elapsed_secs", "fenced", "error")
BAD = (b"0", b"0\n", b"2", b"", b"\n", b"no", b"\0001", b"x" * 4096)
MAY = {"fenced": "af", "error": "ae"}
TIMEOUTS_MS = (100, 200, 1000, 3000, 3000)
HELD = 32
# Generous, for a guest that is starved of CPU time.
SECONDS_TO_END = 60

STOP = 0
PAUSE = 1

Member = Callable[["Crew", Counter[str]], None]


@dataclass(frozen=True)
class Told:
    """
    The crew's actions and problems.

    `rids` holds the requests that members fenced, and those that uevents reported as fenced and
    failed.
    """

    counts: Counter[str]
    rids: dict[str, set[str]]
    problems: list[str]


class Crew:
    """Processes that run until they are stopped."""

    def __init__(self) -> None:
        # In a member's process: the rids of that member.
        self.rids: dict[str, set[str]] = defaultdict(set)
        self._flags = mmap.mmap(-1, mmap.PAGESIZE)
        self.paused = True
        self._members: list[tuple[str, int, int]] = []

    def goes_on(self) -> bool:
        return not self._flags[STOP]

    @property
    def paused(self) -> bool:
        return bool(self._flags[PAUSE])

    @paused.setter
    def paused(self, value: bool) -> None:
        self._flags[PAUSE] = value

    def add(self, name: str, member: Member) -> None:
        report, end = os.pipe()
        pid = os.fork()
        if pid:
            os.close(end)
            self._members.append((name, pid, report))
            return
        counts: Counter[str] = Counter()
        try:
            random.seed()
            going = True
            while going:
                # Calls the member once more after the end, so that it can clean up.
                going = self.goes_on()
                member(self, counts)
            rids = {kind: sorted(rids) for kind, rids in self.rids.items()}
            told: object = {"counts": counts, "rids": rids}
        except BaseException:  # any exception is reported
            told = traceback.format_exc()
        with os.fdopen(end, "w") as file:
            json.dump(told, file)
        os._exit(0)

    def end(self) -> Told:
        self._flags[STOP] = 1
        all_told = Told(Counter(), defaultdict(set), [])
        for name, pid, report in self._members:
            with os.fdopen(report) as file:
                text = file.read()
            os.waitpid(pid, 0)
            told = json.loads(text) if text else "it died"
            if isinstance(told, dict):
                all_told.counts.update(told["counts"])
                for kind, rids in told["rids"].items():
                    all_told.rids[kind].update(rids)
            else:
                all_told.problems.append(f"{name}: {told}")
        self._members.clear()
        return all_told


def requests() -> list[str]:
    """The directories of all current requests, in any order."""
    found = []
    for root in ROOTS:
        with suppress(OSError):
            for name in os.listdir(root):
                with suppress(OSError):
                    fence = f"{root}/{name}/fence"
                    found += [f"{fence}/{rid}" for rid in os.listdir(fence)]
    random.shuffle(found)
    return found


def attempt(path: str, text: bytes) -> int:
    """Writes to a file; returns the number of bytes written, or the negative errno."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(file, text)
        finally:
            os.close(file)
    except OSError as error:
        return -(error.errno or 0)


def agent(crew: Crew, counts: Counter[str]) -> None:
    """Makes allowed writes, sometimes twice, and writes invalid values to other files."""
    found = requests()
    for path in found:
        rid = path[-16:]
        for name in random.sample(sorted(MAY), 2):
            if rid[0] in MAY[name] and random.random() < 0.7:
                answer = attempt(f"{path}/{name}", random.choice((b"1", b"1\n", b"on")))
                allowed = {1, 2, -ENOENT, -ENODEV} | ({-ESTALE} if name == "fenced" else set())
                true(answer in allowed, f"'1' in {name} of {rid} was answered with {answer}")
                counts[f"{name} written"] += answer > 0
                if name == "fenced" and answer > 0:
                    crew.rids["written"].add(rid)
            elif random.random() < 0.2:
                bad = random.choice(BAD)
                answer = attempt(f"{path}/{name}", bad)
                allowed = {-EINVAL, -ENOENT, -ENODEV} | (set() if bad else {0})
                true(answer in allowed, f"{bad!r} in {name} of {rid} was answered with {answer}")
                counts["bad writes"] += 1
    if not found:
        time.sleep(0.005)


class Reader:
    """Holds files open across their requests' removal, reading and writing them."""

    def __init__(self) -> None:
        self._held: list[tuple[int, str, str]] = []

    def __call__(self, crew: Crew, counts: Counter[str]) -> None:
        for path in requests()[:HELD]:
            name = random.choice(FILES)
            mode = os.O_RDWR if name in MAY else os.O_RDONLY
            try:
                file = os.open(f"{path}/{name}", mode | os.O_CLOEXEC)
            except OSError as error:
                true(error.errno in (ENOENT, ENODEV), f"opening {name} of {path[-16:]}: {error}")
            else:
                self._held.append((file, path[-16:], name))
        random.shuffle(self._held)
        for file, rid, name in self._held:
            self._use(file, rid, name, counts)
        while len(self._held) > (HELD if crew.goes_on() else 0):
            os.close(self._held.pop()[0])
        time.sleep(0.005)

    @staticmethod
    def _use(file: int, rid: str, name: str, counts: Counter[str]) -> None:
        try:
            text = os.pread(file, 4096, 0).decode()
        except OSError as error:
            equal(-(error.errno or 0), -ENODEV, f"reading {name} of {rid}")
            counts["reads of what has gone"] += 1
            return
        counts["reads"] += 1
        if name == "rid":
            equal(text, f"{rid}\n")
        elif name in MAY:
            true(text in ("0\n", "1\n"), f"{name} of {rid} is {text!r}")
            never = name == "fenced" and rid[0] not in MAY[name]
            true(not (never and text == "1\n"), f"no agent wrote {name} of {rid}")
            with suppress(OSError):
                os.pwrite(file, b"0", 0)


def administrator(crew: Crew, counts: Counter[str]) -> None:
    """Changes the timeout of requests, and tries to unload the module while it is in use."""
    try:
        kernel.set_parameter(kernel.FENCE, "timeout_ms", random.choice(TIMEOUTS_MS))
    except OSError as error:
        # The module has just been unloaded, or is being unloaded.
        true(error.errno in (ENOENT, ENODEV), f"setting timeout_ms: {error}")
    if not crew.paused and kernel.is_loaded(TORTURE):
        try:
            kernel.unload(kernel.FENCE)
        except OSError as error:
            equal(-(error.errno or 0), -EAGAIN, "unloading what is in use")
            counts["unloads in vain"] += 1
        else:
            raise CaseFailed("the module was unloaded while another used it")
    time.sleep(random.random())


def mounter(crew: Crew, counts: Counter[str]) -> None:
    """Mounts a filesystem, starts requests, and unmounts before all of them are finished."""
    if crew.paused:
        time.sleep(0.05)
        return
    try:
        mount = Mount(Path(f"/tmp/torture-{os.getpid()}"))
    except OSError as error:
        # The modules have just been unloaded.
        true(error.errno == ENODEV and crew.paused, f"mounting: {error}")
        return
    rids = [random.getrandbits(60) | 0xF << 60 for _ in range(random.randrange(1, 6))]
    for rid in rids:
        equal(mount.start(rid), 0, "start")
    counts["started"] += len(rids)
    if random.random() < 0.5:
        mount.wait_next(500)
        finished = mount.next()
        if not isinstance(finished, int):
            equal(mount.free(finished.rid), 0, "free")
            counts["failed" if finished.error else "fenced"] += 1
            rids.remove(finished.rid)
    counts["dropped"] += len(rids)
    counts["mounts"] += 1
    mount.unmount()


class Listens:
    """Receives the uevents of all requests."""

    def __init__(self) -> None:
        self._listener = Listener()

    def __call__(self, crew: Crew, counts: Counter[str]) -> None:
        for event in self._listener.events(0.2):
            counts[f"uevents {event.action}"] += 1
            if event.action == "change":
                crew.rids[event.state].add(event.rid)


CREW: dict[str, Callable[[], Member]] = {
    "an agent": lambda: agent,
    "another agent": lambda: agent,
    "a reader": Reader,
    "the administrator": lambda: administrator,
    "the mounter": lambda: mounter,
    "a listener": Listens,
}


@contextmanager
def at_work() -> Iterator[Crew]:
    crew = Crew()
    try:
        for name, member in CREW.items():
            crew.add(name, member())
            say(f"{name} is at work")
        # The members must not starve this process, which watches them.
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        yield crew
    finally:
        crew.end()
        os.setpriority(os.PRIO_PROCESS, 0, 0)


class Tally:
    """Reads the log of the kernel threads and the module as it comes."""

    def __init__(self, log: kernel.KernelLog) -> None:
        self._log = log
        self.counts: Counter[str] = Counter()
        # The requests that failed according to the log.
        self.failed: set[str] = set()

    def read(self) -> None:
        """Raises CaseFailed if the log reports a problem."""
        complaints = self._log.complaints()
        lines = self._log.take()
        wrong = [line.text for line in lines if line.text.startswith(f"{TORTURE}: wrong: ")]
        if problems := wrong + complaints:
            raise CaseFailed("\n".join(problems[:10]))
        for line in lines:
            if found := re.search(r" error: .*rid (\w{16})($| was not serviced in )", line.text):
                self.failed.add(found[1])
            elif found := re.fullmatch(rf"{TORTURE}: (\w+) (\d+)", line.text):
                self.counts[found[1]] += int(found[2])


def unload_all() -> None:
    """Unloads the modules, waiting for the mounter to unmount."""
    end = time.monotonic() + SECONDS_TO_END
    while True:
        try:
            kernel.unload_both()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
