# SPDX-License-Identifier: GPL-2.0-only
"""
A model of both interfaces, short enough to be read beside include/fence.h.

It keeps the promises of the header and the table of files, and knows nothing of the module's
implementation.  A step is a few words; its answer is a number, negative for errors, or a text.
The answer is None if the step makes no sense in this state, or would wait for ever.
"""

from dataclasses import dataclass, field
from errno import EACCES, EAFNOSUPPORT, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ESTALE, ETIMEDOUT

Step = tuple[str, ...]
Answer = int | str | None

# The only timeout in a sequence that is short enough to expire while it runs.
SHORT_MS = 300
DEFAULT_MS = 30_000
REASONS = {0: "client_recovery", 1: "client_reconnect", 2: "quorum_block_leader"}
FILES = ("rid", "ipv4_addr", "inet_addr", "reason", "elapsed_secs", "fenced", "error")
WRITABLE = ("fenced", "error")
# The most that sysfs accepts in one write.
PAGE = 4096
# A wait of this many milliseconds or jiffies outlasts the timeout of a short request.
LONG_WAIT = 3000


@dataclass(eq=False)
class Request:
    rid: int
    address: str
    reasons: list[int]
    timeout_ms: int
    # The step that made it.
    made: int
    state: str = "pending"
    listed: bool = True

    def times_out(self) -> bool:
        return self.state == "pending" and self.timeout_ms == SHORT_MS

    def value(self, file: str) -> str:
        return {
            "rid": f"{self.rid:016x}",
            "ipv4_addr": "0.0.0.0" if ":" in self.address else self.address,
            "inet_addr": self.address,
            "reason": REASONS.get(self.reasons[0], "unknown"),
            # The caller knows the seconds since that step.
            "elapsed_secs": f"since step {self.made}",
            "fenced": str(int(self.state == "fenced")),
            "error": str(int(self.state == "failed")),
        }[file] + "\n"

    def write(self, file: str, text: str) -> int:
        if text:
            if not is_true(text):
                return -EINVAL
            if file == "fenced" and self.state == "failed":
                return -ESTALE
            self.state = {"fenced": "fenced", "error": "failed"}[file]
        return min(len(text), PAGE)


def reason_class(reason: int) -> int:
    """The class of a reason; all unnamed reasons form one class."""
    return reason if reason in range(3) else 3


def is_true(text: str) -> bool:
    """Whether the kernel's kstrtobool reads it as true."""
    return text[0] in "yYtT1" or text[:2].lower() == "on"


@dataclass
class Mount:
    # In the order in which they were started.
    requests: dict[int, Request] = field(default_factory=dict)
    # The parent of the requests' directory; None if the mount is not set up.
    parent: str | None = None

    def has(self, *states: str) -> bool:
        return any(request.state in states for request in self.requests.values())


class Model:
    def __init__(self) -> None:
        self.mounts: dict[str, Mount] = {}
        self.files: dict[str, tuple[Request, str]] = {}
        self.timeout_ms = DEFAULT_MS
        self.steps = 0
        # The request that the last step made, and whether the step lasted until all short requests
        # had timed out.
        self.made: Request | None = None
        self.time_passed = False

    def do(self, step: Step) -> Answer:
        self.steps += 1
        self.made = None
        self.time_passed = False
        answer: Answer = getattr(self, f"do_{step[0]}")(*step[1:])
        return answer

    def hurried(self) -> list[tuple[str, Request]]:
        """The requests that will time out."""
        return [
            (name, request)
            for name, mount in self.mounts.items()
            for request in mount.requests.values()
            if request.times_out()
        ]

    # The administrator's steps.

    def do_mount(self, name: str, option: str = "") -> Answer:
        if name in self.mounts:
            return None
        if option == "fail":
            return -EIO
        self.mounts[name] = Mount(parent=None if option else "device")
        return 0

    def do_unmount(self, name: str) -> Answer:
        if name not in self.mounts:
            return None
        self.destroy(self.mounts.pop(name))
        return 0

    def do_set_timeout(self, text: str) -> Answer:
        if text:
            value = int(text) if text.strip().isdigit() else 0
            if not 100 <= value <= 3_600_000:
                return -EINVAL
            self.timeout_ms = value
        return len(text)

    def do_read_timeout(self) -> Answer:
        return f"{self.timeout_ms}\n"

    def do_pass(self) -> Answer:
        """Waits for the timeout of a short request."""
        self.time_passed = True
        for _, request in self.hurried():
            request.state = "failed"
        return 0

    # The agent's steps.

    def find(self, name: str, rid: str) -> Request | None:
        return self.mounts[name].requests.get(int(rid, 16))

    def do_list(self, name: str) -> Answer:
        if name not in self.mounts:
            return None
        mount = self.mounts[name]
        if mount.parent is None:
            return -ENOENT
        return " ".join(sorted(f"{rid:016x}" for rid in mount.requests))

    def do_read(self, name: str, rid: str, file: str) -> Answer:
        if name not in self.mounts:
            return None
        request = self.find(name, rid)
        return request.value(file) if request else -ENOENT

    def do_write(self, name: str, rid: str, file: str, text: str) -> Answer:
        if name not in self.mounts:
            return None
        request = self.find(name, rid)
        if not request:
            return -ENOENT
        return request.write(file, text) if file in WRITABLE else -EACCES

    def do_open(self, handle: str, name: str, rid: str, file: str) -> Answer:
        if name not in self.mounts or handle in self.files:
            return None
        request = self.find(name, rid)
        if not request:
            return -ENOENT
        self.files[handle] = request, file
        return 0

    def do_read_open(self, handle: str) -> Answer:
        if handle not in self.files:
            return None
        request, file = self.files[handle]
        return request.value(file) if request.listed else -ENODEV

    def do_write_open(self, handle: str, text: str) -> Answer:
        if handle not in self.files or self.files[handle][1] not in WRITABLE:
            return None
        request, file = self.files[handle]
        return request.write(file, text) if request.listed else -ENODEV

    def do_close(self, handle: str) -> Answer:
        return 0 if self.files.pop(handle, None) else None

    def do_look(self) -> Answer:
        """The contents of sysfs."""
        lines = []
        for name, mount in sorted(self.mounts.items()):
            if mount.parent:
                lines.append(f"{name} in {mount.parent}:\n")
            for rid, request in sorted(mount.requests.items()):
                lines.append(f"  {rid:016x}:\n")
                lines += [f"    {file} {request.value(file)}" for file in sorted(FILES)]
        return "".join(lines)

    # The filesystem's steps: the functions of include/fence.h.

    def do_call(self, name: str, *words: str) -> Answer:
        if name not in self.mounts:
            return None
        function, *arguments = (word for word in words if word not in ("null", "atomic"))
        mount = None if "null" in words else self.mounts[name]
        if function == "drained":
            return self.drained(mount)
        if function == "drained_null":
            return 0
        if function in ("stop", "destroy"):
            if mount:
                getattr(self, function)(mount)
            return 0
        if mount is None or self.is_invalid(function, arguments):
            return -EINVAL
        if arguments[1:2] and arguments[1].startswith("family:"):
            return -EAFNOSUPPORT
        if function == "setup":
            return self.setup(mount, "device")
        if function == "setup_under":
            return self.setup(mount, arguments[0])
        if mount.parent is None:
            return -ENODEV
        answer: Answer = getattr(self, function)(mount, *arguments)
        return answer

    @staticmethod
    def is_invalid(function: str, arguments: list[str]) -> bool:
        """Whether the arguments are invalid for any superblock."""
        if function == "next_null":
            return True
        if function == "setup_under":
            return arguments[0] in ("none", "nameless")
        if function == "start_addr":
            return arguments[1] == "none"
        return function.startswith("wait_") and int(arguments[0]) < 0

    def setup(self, mount: Mount, parent: str) -> Answer:
        # Each mount has its own device and directory; the shared directory is the only common one.
        taken = [other.parent for other in self.mounts.values() if other.parent == "shared"]
        if mount.parent or parent in taken:
            return -EBUSY
        mount.parent = parent
        return 0

    def start(self, mount: Mount, rid: str, address: str, reason: str) -> Answer:
        number = int(rid, 16)
        if number in mount.requests:
            mount.requests[number].reasons.append(int(reason))
        else:
            self.made = Request(number, address, [int(reason)], self.timeout_ms, self.steps)
            mount.requests[number] = self.made
        return 0

    start_addr = start

    def next(self, mount: Mount) -> Answer:
        for request in mount.requests.values():
            if request.state != "pending":
                error = int(request.state == "failed")
                return f"0 rid={request.rid:016x} reason={request.reasons[0]} error={error}"
        return -ENOENT

    def drained(self, mount: Mount | None) -> Answer:
        if mount is None or mount.parent is None:
            return "0 error=1"
        return f"{int(not mount.requests)} error={int(mount.has('failed'))}"

    def reason_pending(self, mount: Mount, reason: str) -> Answer:
        return int(
            any(
                reason_class(int(reason)) in map(reason_class, request.reasons)
                for request in mount.requests.values()
            )
        )

    def free(self, mount: Mount, rid: str) -> Answer:
        request = mount.requests.pop(int(rid, 16), None)
        if not request:
            return -ENOENT
        request.listed = False
        return 0

    def wait_fenced(self, mount: Mount, timeout: str) -> Answer:
        if mount.has("failed"):
            return -EIO
        if not mount.has("pending"):
            return 0
        return self.wait(mount, timeout, -EIO, -ETIMEDOUT)

    def wait_next(self, mount: Mount, timeout: str) -> Answer:
        if mount.has("fenced", "failed"):
            return "ready"
        return self.wait(mount, timeout, "ready", 0)

    def wait(self, mount: Mount, timeout: str, failed: Answer, over: Answer) -> Answer:
        """A wait that blocks: ends when a request fails, or on its own timeout."""
        if int(timeout) < LONG_WAIT:
            return over
        if not any(request.times_out() for request in mount.requests.values()):
            return None
        self.do_pass()
        return failed

    wait_fenced_jiffies = wait_fenced
    wait_next_jiffies = wait_next

    def stop(self, mount: Mount) -> None:
        for request in mount.requests.values():
            request.listed = False
        mount.requests = {}

    def destroy(self, mount: Mount) -> None:
        self.stop(mount)
        mount.parent = None
