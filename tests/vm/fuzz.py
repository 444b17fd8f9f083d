# SPDX-License-Identifier: GPL-2.0-only
"""
Runs random sequences of steps on the model and on the module, and compares the answers.

The seed determines a sequence, which begins with nothing mounted.  If the two answer a step
differently, steps are removed while a difference remains.

Timing decides nothing: if a step ends so late that requests may have timed out too early, the
sequence ends without a verdict.
"""

import difflib
import itertools
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import errorcode
from functools import partial
from pathlib import Path

import kernel
from fence import LONG_MIN
from model import DEFAULT_MS, FILES, LONG_WAIT, SHORT_MS, WRITABLE, Answer, Model, Step

MOUNTS = Path("/tmp/model")
STEPS_OF_A_SEQUENCE = 100
TRIES = 3
# A guest that is starved of CPU time gets its ticks late and in bursts: a timeout that starts
# before a burst ends early by our clock.
EARLY = 0.180
LATE = 0.060
SECONDS_OF_DOUBT = 1
SECONDS_TO_FAIL = 5
SECONDS_OF_A_SEQUENCE = 60
SECONDS_BETWEEN_SIGNS = 20

# May make a model that is wrong on purpose.
MakeModel = Callable[[], Model]


class Uncertain(Exception):
    """It is unknown which requests had timed out at a step."""


@dataclass(frozen=True)
class Difference:
    """The steps taken, and both answers to the last of them."""

    steps: list[Step]
    wanted: Answer
    got: Answer


class Module:
    """Drives the module through sysfs and through each mount's call file."""

    def __init__(self) -> None:
        # The possible parents of each mount's requests, and the expected one.
        self._directories: dict[str, dict[str, str]] = {}
        self._parents: dict[str, str] = {}
        self._files: dict[str, int] = {}

    def __enter__(self) -> "Module":
        MOUNTS.mkdir(exist_ok=True)
        # The case may have begun with another, and so may the sequence before.
        self.do_set_timeout(str(DEFAULT_MS))
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            os.close(file)
        for name in list(self._directories):
            self.do_unmount(name)

    def do(self, step: Step) -> Answer:
        try:
            answer: Answer = getattr(self, f"do_{step[0]}")(*step[1:])
        except OSError as error:
            answer = -(error.errno or 0)
        return answer

    def do_mount(self, name: str, option: str = "") -> Answer:
        path = MOUNTS / name
        path.mkdir(exist_ok=True)
        kernel.mount("fence_test", path, option)
        device = path.stat().st_dev
        [own] = kernel.SCOUTFS_SYSFS.glob(f"f.{os.minor(device):06x}.r.*")
        self._directories[name] = {
            "device": f"{kernel.FENCE_SYSFS}/{os.major(device)}:{os.minor(device)}",
            "own": str(own),
            "shared": str(kernel.SCOUTFS_SYSFS),
        }
        self._parents[name] = "device"
        return 0

    def do_unmount(self, name: str) -> Answer:
        kernel.unmount(MOUNTS / name)
        del self._directories[name], self._parents[name]
        return 0

    def do_call(self, name: str, *words: str) -> Answer:
        file = os.open(f"{MOUNTS}/{name}/call", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(file, " ".join(words).encode())
            text = os.read(file, 256).decode().strip()
        except OSError as error:
            raise ValueError(f"the test filesystem does not take '{' '.join(words)}'") from error
        finally:
            os.close(file)
        if text == "0" and "null" not in words:
            if words[0].startswith("setup"):
                self._parents[name] = words[1] if words[1:] else "device"
            elif words[0] == "destroy":
                self._parents[name] = "device"
        if "wait_next" in words or "wait_next_jiffies" in words:
            return self._left(text, words[-1])
        return int(text) if re.fullmatch(r"-?\d+", text) else text

    @staticmethod
    def _left(text: str, timeout: str) -> Answer:
        """wait_next's answer; any remaining time from 1 up to the timeout counts as "ready"."""
        answer, _, jiffies = text.partition(" timeout=")
        left = int(answer)
        return "ready" if 1 <= left <= max(1, int(jiffies or timeout)) else left

    def do_set_timeout(self, text: str) -> Answer:
        return self._write(str(kernel.TIMEOUT_MS), text)

    def do_read_timeout(self) -> Answer:
        return self._read(str(kernel.TIMEOUT_MS))

    def do_pass(self) -> Answer:
        return 0

    def until_failed(self, requests: Iterable[tuple[str, str]]) -> None:
        """Waits until these requests have failed, or are long overdue."""
        end = time.monotonic() + SECONDS_TO_FAIL
        for name, rid in requests:
            while self.do(("read", name, rid, "error")) == "0\n" and time.monotonic() < end:
                time.sleep(0.002)

    # Reading sysfs.

    def _requests(self, name: str) -> str:
        return f"{self._directories[name][self._parents[name]]}/fence"

    def _path(self, name: str, rid: str, file: str) -> str:
        return f"{self._requests(name)}/{int(rid, 16):016x}/{file}"

    @staticmethod
    def _read(path: str) -> str:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 8192).decode()
        finally:
            os.close(file)

    @staticmethod
    def _write(path: str, text: str) -> int:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(file, text.encode())
        finally:
            os.close(file)

    def do_list(self, name: str) -> Answer:
        return " ".join(sorted(os.listdir(self._requests(name))))

    def do_read(self, name: str, rid: str, file: str) -> Answer:
        return self._read(self._path(name, rid, file))

    def do_write(self, name: str, rid: str, file: str, text: str) -> Answer:
        return self._write(self._path(name, rid, file), text)

    def do_open(self, handle: str, name: str, rid: str, file: str) -> Answer:
        mode = os.O_RDWR if file in WRITABLE else os.O_RDONLY
        self._files[handle] = os.open(self._path(name, rid, file), mode | os.O_CLOEXEC)
        return 0

    def do_read_open(self, handle: str) -> Answer:
        return os.pread(self._files[handle], 8192, 0).decode()

    def do_write_open(self, handle: str, text: str) -> Answer:
        return os.pwrite(self._files[handle], text.encode(), 0)

    def do_close(self, handle: str) -> Answer:
        os.close(self._files.pop(handle))
        return 0

    def do_look(self) -> Answer:
        """The directories of all requests of all mounts."""
        owners = {
            directory: f"{name} in {kind}"
            for name, directories in self._directories.items()
            for kind, directory in directories.items()
            if kind != "shared" or kind == self._parents[name]
        }
        found = [*kernel.FENCE_SYSFS.iterdir()]
        found += [fence.parent for fence in kernel.SCOUTFS_SYSFS.glob("**/fence")]
        lines: list[str] = []
        for parent in sorted(map(str, found), key=lambda path: owners.get(path, path)):
            lines.append(f"{owners.get(parent, parent)}:\n")
            for request in sorted(Path(parent, "fence").iterdir()):
                lines.append(f"  {request.name}:\n")
                files = sorted(os.listdir(request))
                lines += [f"    {file} {self._read(f'{request}/{file}')}" for file in files]
        return "".join(lines)


def say(*lines: str) -> None:
    for line in lines:
        print(f"# {line}", flush=True)


@contextmanager
def told_if_it_hangs(steps: list[Step]) -> Iterator[None]:
    """Prints the steps if the last one hangs; the call itself cannot be aborted."""

    def tell() -> None:
        say(f"not over within {SECONDS_OF_A_SEQUENCE} s:", *map(written, steps))

    timer = threading.Timer(SECONDS_OF_A_SEQUENCE, tell)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Times:
    """The times of a sequence's steps, and the deadlines of the requests that they made."""

    def __init__(self) -> None:
        self._taken: dict[int, tuple[float, float]] = {}
        self._begin = 0.0
        # No request times out before the first; after the second all of them should have.
        self._none_before = float("inf")
        self._all_after = 0.0

    def begin(self) -> None:
        self._begin = time.monotonic()

    def end(self, model: Model) -> None:
        """Records that the module has taken the model's last step."""
        now = time.monotonic()
        self._taken[model.steps] = self._begin, now
        if model.made and model.made.times_out():
            self._none_before = min(self._none_before, self._begin + SHORT_MS / 1000 - EARLY)
            self._all_after = now + SHORT_MS / 1000
        if model.time_passed or not model.hurried():
            self._none_before = float("inf")

    def is_certain(self) -> bool:
        return time.monotonic() < self._none_before

    def let_pass(self) -> None:
        time.sleep(max(0, self._all_after + LATE - time.monotonic()))

    def agree(self, wanted: Answer, got: Answer) -> bool:
        """Whether the answers agree, with tolerance for elapsed seconds."""
        if wanted == got or not isinstance(wanted, str) or not isinstance(got, str):
            return wanted == got
        pairs = list(zip(wanted.splitlines(), got.splitlines(), strict=False))
        same_length = wanted.count("\n") == got.count("\n")
        return same_length and all(
            one == other or self._elapsed(one, other) for one, other in pairs
        )

    def _elapsed(self, wanted: str, got: str) -> bool:
        since = re.search(r"since step (\d+)$", wanted)
        seconds = re.search(r"\d+$", got)
        if not since or not seconds:
            return False
        begin, end = self._taken[int(since[1])]
        least = int(max(0, self._begin - end - SECONDS_OF_DOUBT))
        return least <= int(seconds[0]) <= int(time.monotonic() - begin + SECONDS_OF_DOUBT)


def _the_same(steps: list[Step], _: Model) -> list[Step]:
    """A fixed sequence of steps."""
    return steps


class Runner:
    """Runs sequences of steps, each from the initial state."""

    def __init__(self, make_model: MakeModel, log: kernel.KernelLog) -> None:
        self._make_model = make_model
        self._log = log
        self._sign = time.monotonic()
        self.taken = 0
        self.uncertain = 0

    def run(self, steps: Callable[[Model], Iterable[Step]]) -> Difference | None:
        """Runs the steps until there is a difference or the kernel complains."""
        self._give_sign()
        model = self._make_model()
        taken: list[Step] = []
        try:
            with Module() as module, told_if_it_hangs(taken):
                difference = self._compare(steps(model), model, module, taken)
        except Uncertain:
            self.uncertain += 1
            return None
        complaints = self._log.complaints()
        self._log.skip()
        if complaints and not difference:
            return Difference(taken, "no complaint of the kernel", complaints[0])
        return difference

    def _compare(
        self, steps: Iterable[Step], model: Model, module: Module, taken: list[Step]
    ) -> Difference | None:
        times = Times()
        for step in steps:
            hurried = [(name, f"{request.rid:x}") for name, request in model.hurried()]
            wanted = model.do(step)
            if wanted is None:
                continue
            taken.append(step)
            times.begin()
            got = module.do(step)
            if model.time_passed:
                times.let_pass()
                module.until_failed(hurried)
            elif not times.is_certain():
                raise Uncertain
            times.end(model)
            self.taken += 1
            if not times.agree(wanted, got):
                return Difference(taken, wanted, got)
        return None

    def shrink(self, difference: Difference) -> Difference:
        """Removes all unnecessary steps: many at once at first, then one by one."""
        size = len(difference.steps) // 2
        while size:
            end = len(difference.steps)
            shorter = False
            while end > 0:
                begin = max(0, end - size)
                rest = difference.steps[:begin] + difference.steps[end:]
                found = self.run(partial(_the_same, rest)) if rest else None
                if found:
                    shorter = True
                    difference = found
                end = min(begin, len(difference.steps))
            if not shorter or size > 1:
                size //= 2
        return difference

    def _give_sign(self) -> None:
        """Prints progress, as a silent guest is considered hung."""
        if time.monotonic() > self._sign + SECONDS_BETWEEN_SIGNS:
            self._sign = time.monotonic()
            say(f"{self.taken} steps so far")


# The parts of sequences.

RIDS = ("1", "2", "3", "0", "fedcba9876543210", "ffffffffffffffff")
IPV4 = ("10.0.0.7", "10.1.2.3", "0.0.0.0", "255.255.255.255", "192.168.255.0")
IPV6 = ("fe80::1", "2001:db8:1:2:3:4:5:6", "::", "::1", "::ffff:10.0.0.1", "2001:0:0:1::1")
NO_ADDRESSES = ("none", "family:0", "family:1", "family:3", "family:65535")
REASONS = ("0", "1", "2", "0", "1", "2", "3", "-1", str(2**31 - 1), str(-(2**31)))
TRUE = (
    "1",
    "1\n",
    "y",
    "Y\n",
    "yes\n",
    "t",
    "true",
    "on",
    "ON\n",
    "1 of 1",
    "1\0",
    "1" + "x" * 4999,
)
UNTRUE = (
    "0",
    "0\n",
    "n",
    "no",
    "off\n",
    "of",
    "f",
    "",
    "\n",
    " 1",
    "2",
    "-1",
    "o",
    "\0001",
    "x" * 5000,
)
MILLISECONDS = ("0", "0", "0", "5", "20", str(LONG_WAIT))
JIFFIES = ("0", "0", "1", "3", "-1", str(LONG_MIN), str(LONG_WAIT))
SPANS = ("3600000", "60000\n", "30000")
NO_SPANS = (
    "99",
    "3600001",
    "0",
    "-1",
    "x",
    "200x",
    "",
    "\n",
    " ",
    str(2**32 + 200),
    str(2**64 + 200),
)
PARENTS = ("own", "own", "shared", "shared", "nameless", "none")

# The relative frequency of each kind of step.
WEIGHTS = {
    "start": 24,
    "start_addr": 8,
    "next": 6,
    "next_null": 0.5,
    "drained": 4,
    "drained_null": 0.5,
    "reason_pending": 4,
    "free": 9,
    "wait_fenced": 3,
    "wait_fenced_jiffies": 2,
    "wait_next": 3,
    "wait_next_jiffies": 2,
    "stop": 2,
    "destroy": 1,
    "setup": 2,
    "setup_under": 2,
    "mount": 1,
    "unmount": 0.7,
    "fence": 8,
    "fail": 4,
    "write": 6,
    "read": 10,
    "list": 3,
    "look": 0.5,
    "open": 4,
    "read_open": 5,
    "write_open": 5,
    "close": 2,
    "set_timeout": 0.5,
    "read_timeout": 0.5,
    "hurry": 4,
    "pass": 2,
}


class Sequence:
    """The steps of a seed; each depends on the model's state."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        pick = self._random.choice
        # Omits some kinds and favours others, to vary the sequences.
        weights = {kind: weight * pick((0, 1, 1, 1, 4)) for kind, weight in WEIGHTS.items()}
        # Short timeouts take time, so most sequences have none.
        if self._random.random() < 0.8:
            weights["hurry"] = 0
        self._rids = self._random.sample(RIDS, pick(range(1, len(RIDS))))
        self._kinds = list(weights)
        self._weights = list(weights.values())

    def steps(self, model: Model) -> Iterator[Step]:
        yield "mount", "a"
        for kind in self._random.choices(self._kinds, self._weights, k=STEPS_OF_A_SEQUENCE):
            if kind != "pass" or model.timeout_ms == SHORT_MS:
                yield self._step(kind, model)
        if model.hurried():
            yield ("pass",)
        yield ("look",)
        for name in list(model.mounts):
            yield from self._settle(name, model)

    @staticmethod
    def _settle(name: str, model: Model) -> Iterator[Step]:
        """Frees all requests and checks that nothing of them is left."""
        for rid in list(model.mounts[name].requests):
            yield "call", name, "free", f"{rid:x}"
        yield "call", name, "drained", "1"
        yield "call", name, "next"
        yield "call", name, "wait_fenced", "0"
        yield "call", name, "wait_next", "0"
        for reason in sorted(set(REASONS)):
            yield "call", name, "reason_pending", reason

    def _step(self, kind: str, model: Model) -> Step:
        pick = self._random.choice
        likely = self._random.random() < 0.9
        name = pick(list(model.mounts)) if model.mounts and likely else pick("abc")
        handle = pick(list(model.files)) if model.files and likely else pick(("one", "two"))
        requests = model.mounts[name].requests if name in model.mounts and likely else ()
        rid = f"{pick(list(requests)):x}" if requests else pick(self._rids)
        text = pick(TRUE if self._random.random() < 0.7 else UNTRUE)
        match kind:
            case "mount":
                return "mount", pick("abc"), *pick(((), (), ("nosetup",), ("fail",)))
            case "unmount" | "list":
                return kind, name
            case "fence" | "fail":
                return "write", name, rid, {"fence": "fenced", "fail": "error"}[kind], "1\n"
            case "read":
                return kind, name, rid, pick(FILES)
            case "write":
                return kind, name, rid, pick((*FILES, *WRITABLE * 10)), text
            case "open":
                return kind, pick(("one", "two")), name, rid, pick((*FILES, *WRITABLE * 4))
            case "read_open" | "close":
                return kind, handle
            case "write_open":
                return kind, handle, text
            case "set_timeout":
                return kind, pick(SPANS if self._random.random() < 0.5 else NO_SPANS)
            case "hurry":
                return "set_timeout", pick((str(SHORT_MS), str(SHORT_MS), "60000"))
            case "pass" | "look" | "read_timeout":
                return (kind,)
            case _:
                how = ["null"] if self._random.random() < 0.02 else []
                if kind in ("next", "drained", "drained_null", "reason_pending"):
                    how += pick(([], [], ["atomic"]))
                return "call", name, *how, kind, *self._arguments(kind, rid)

    def _arguments(self, function: str, rid: str) -> Step:
        pick = self._random.choice
        match function:
            case "start":
                return pick(self._rids), pick(IPV4), pick(REASONS)
            case "start_addr":
                addresses = pick((IPV4, IPV6, IPV6, IPV6, NO_ADDRESSES))
                return pick(self._rids), pick(addresses), pick(REASONS)
            case "free":
                return (rid,)
            case "next_null":
                return (pick(("rid", "reason", "error")),)
            case "drained":
                return (pick("01"),)
            case "reason_pending":
                return (pick(REASONS),)
            case "setup_under":
                return (pick(PARENTS),)
            case "wait_fenced" | "wait_next":
                return (pick(MILLISECONDS),)
            case "wait_fenced_jiffies" | "wait_next_jiffies":
                return (pick(JIFFIES),)
            case _:
                return ()


def written(step: Step) -> str:
    """A step in readable form."""
    words = [word if re.fullmatch(r"[\w.:-]+", word) else repr(word) for word in step]
    return " ".join(word if len(word) < 50 else f"{word[:4]}...{word[-2:]}" for word in words)


def readable(answer: Answer) -> str:
    if isinstance(answer, int) and -answer in errorcode:
        return f"-{errorcode[-answer]}"
    return repr(answer)


def describe(difference: Difference) -> list[str]:
    """The steps, and both answers to the last one."""
    wanted, got = difference.wanted, difference.got
    lines = [f"  {written(step)}" for step in difference.steps]
    if isinstance(wanted, str) and isinstance(got, str) and "\n" in wanted[:-1]:
        changed = difflib.ndiff(wanted.splitlines(), got.splitlines())
        lines.append("there is in the model (-) and in the module (+):")
        return lines + [f"  {line}" for line in changed if line[0] in "+-" or line[6:7] != " "]
    return [*lines, f"the model answers {readable(wanted)}, the module {readable(got)}"]


@contextmanager
def quiet_console() -> Iterator[None]:
    """Keeps log lines off the console: the serial line is slow."""
    levels = Path("/proc/sys/kernel/printk")
    before = levels.read_text()
    levels.write_text("1")
    try:
        yield
    finally:
        levels.write_text(before)


def differences(runner: Runner, seed: int, steps: int) -> Iterator[tuple[int, Difference]]:
    """Runs the sequences of this seed and the following ones until enough steps were taken."""
    left = steps
    while left > 0:
        before = runner.taken
        # If the kernel dies, the console shows the seed that killed it.
        Path("/dev/kmsg").write_text(f"<0>the sequence of seed {seed}\n")
        difference = runner.run(Sequence(seed).steps)
        left -= runner.taken - before
        if difference:
            yield seed, difference
        seed += 1


def search(runner: Runner, seed: int, steps: int) -> tuple[int, Difference] | None:
    """
    Finds the shortest sequence with a difference, and the seed from which it was shrunk.

    How far a sequence shrinks depends on the original, so several are tried.
    """
    shortest: tuple[int, Difference] | None = None
    for origin, difference in itertools.islice(differences(runner, seed, steps), TRIES):
        say(f"the sequence of seed {origin} shows a difference; leaving out what it does not take")
        difference = runner.shrink(difference)
        if not shortest or len(difference.steps) < len(shortest[1].steps):
            shortest = origin, difference
    return shortest
