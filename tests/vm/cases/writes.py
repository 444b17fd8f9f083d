# SPDX-License-Identifier: GPL-2.0-only
"""
Odd ways of writing fenced and error: each write is a complete value.

directory.py covers the meaning of each text; this file covers how the text is written.
"""

import ctypes
import mmap
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EFAULT, EINVAL, ENODEV
from functools import partial
from pathlib import Path

from case import Case, case
from fence import CaseFailed, Mount, Request, equal, fails_with, true

FILES = ("fenced", "error")
PAGE = 4096
# A writable boolean parameter that every kernel has.
TIME = Path("/sys/module/printk/parameters/time")


@contextmanager
def opened(request: Request, file: str, flags: int = os.O_RDWR) -> Iterator[int]:
    number = os.open(request.path / file, flags | os.O_CLOEXEC)
    try:
        yield number
    finally:
        os.close(number)


def unanswered(request: Request, what: object) -> None:
    equal(request.read("fenced") + request.read("error"), "0\n0\n", f"after {what!r}")


def answered(mount: Mount, request: Request, file: str, what: object) -> None:
    """Checks that the file reads 1, and frees the request."""
    equal(request.read(file), "1\n", f"{file} after {what!r}")
    equal(mount.free(int(request.path.name, 16)), 0)


def each_file(case: Case) -> Iterator[tuple[Mount, Callable[[], Request], str]]:
    """Yields, for each file, a mount and a function that starts a request there."""
    for file in FILES:
        mount = case.mount()
        if file == "error":
            case.expect_error_line(mount, 0xAA, None)
        yield mount, partial(mount.started, 0xAA), file


def is_true(text: bytes) -> bool:
    """Whether the kernel's own boolean parameters read it as true; 7.3 also accepts `enabled`."""
    before = TIME.read_bytes()
    try:
        TIME.write_bytes(text)
        return TIME.read_text() == "Y\n"
    except OSError:
        return False
    finally:
        TIME.write_bytes(before)


@case
def every_byte_has_its_meaning(case: Case) -> None:
    """Of all bytes, alone or after an o, exactly those that kstrtobool reads as true count."""
    texts = [bytes([*before, byte]) for before in (b"", b"o", b"O") for byte in range(256)]
    true_ones = [text for text in texts if is_true(text)]
    least = {b"1", b"y", b"Y", b"t", b"T", b"on", b"oN", b"On", b"ON"}
    equal(set(true_ones) - {b"e", b"E"}, least, "what is true")
    for mount, start, file in each_file(case):
        request = start()
        with opened(request, file) as number:
            for text in texts:
                if text not in true_ones:
                    fails_with(EINVAL, os.write, number, text)
            unanswered(request, "all that is not true")
        for text in true_ones:
            request = start()
            with opened(request, file) as number:
                equal(os.write(number, text), len(text))
            answered(mount, request, file, text)


@case
def pieces_of_a_value_are_not_joined(case: Case) -> None:
    """Writes through one open file are independent: half a value returns EINVAL and is dropped."""
    for mount, start, file in each_file(case):
        request = start()
        with opened(request, file) as number:
            for text in (b"o", b"n", b"\n", b"O", b"N", b"0", b"", b"x"):
                if text:
                    fails_with(EINVAL, os.write, number, text)
                else:
                    equal(os.write(number, text), 0)
            unanswered(request, "pieces")
            equal(os.write(number, b"1"), 1)
            equal(os.write(number, b"1\n"), 2, "once more")
            fails_with(EINVAL, os.write, number, b"0")
        answered(mount, request, file, "1")


@case
def a_vector_is_one_value(case: Case) -> None:
    """writev writes a single value."""
    for mount, start, file in each_file(case):
        request = start()
        with opened(request, file) as number:
            for parts in ([b"0", b"1"], [b"o", b"f"], [b"", b"0"], [b"\0", b"1"], [b" ", b"1"]):
                fails_with(EINVAL, os.writev, number, parts)
                unanswered(request, parts)
            equal(os.writev(number, [b"", b"o", b"n", b"\n"]), 3)
        answered(mount, request, file, "on")


@case
def the_offset_means_nothing(case: Case) -> None:
    """A value is accepted or refused regardless of the offset, set by pwrite or lseek."""
    for mount, start, file in each_file(case):
        for offset in (0, 1, 2, PAGE - 1, PAGE, PAGE + 1, 2**31, 2**40):
            request = start()
            with opened(request, file) as number:
                fails_with(EINVAL, os.pwrite, number, b"0", offset)
                fails_with(EINVAL, os.pwrite, number, b"x1", offset)
                unanswered(request, offset)
                equal(os.pwrite(number, b"1", offset), 1)
            answered(mount, request, file, f"pwrite at {offset}")
        for offset in (1, PAGE - 1):
            request = start()
            with opened(request, file) as number:
                os.lseek(number, offset, os.SEEK_SET)
                fails_with(EINVAL, os.write, number, b"x1")
                unanswered(request, offset)
                equal(os.write(number, b"1"), 1)
            answered(mount, request, file, f"write at {offset}")
        request = start()
        with opened(request, file) as number:
            fails_with(EINVAL, os.pwrite, number, b"1", -1)
        unanswered(request, "a negative offset")


@case
def opening_and_truncating_change_nothing(case: Case) -> None:
    """O_APPEND, O_TRUNC, O_CREAT and ftruncate alone do nothing; a later write counts."""
    for mount, start, file in each_file(case):
        for flags in (os.O_APPEND, os.O_TRUNC, os.O_CREAT | os.O_TRUNC, os.O_SYNC):
            request = start()
            with opened(request, file, os.O_WRONLY | flags) as number:
                unanswered(request, flags)
                for length in (0, 1, PAGE, 2 * PAGE):
                    os.ftruncate(number, length)
                    unanswered(request, f"ftruncate to {length}")
                fails_with(EINVAL, os.write, number, b"0")
                equal(os.write(number, b"1"), 1)
            with opened(request, file, os.O_WRONLY | os.O_TRUNC):
                pass
            answered(mount, request, file, f"flags {flags:#x}")


@case
def a_page_is_taken_of_what_is_longer(case: Case) -> None:
    """A write takes at most 4096 bytes, and only its beginning matters."""
    for mount, start, file in each_file(case):
        for length in (PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 1 << 20):
            request = start()
            with opened(request, file) as number:
                for text in (b"0" * length, b"\0" * length, b" " * (length - 1) + b"1"):
                    fails_with(EINVAL, os.write, number, text)
                unanswered(request, f"{length} bytes")
                equal(os.write(number, b"1".ljust(length, b"x")), min(length, PAGE))
                # As programs do after a short write.
                fails_with(EINVAL, os.write, number, b"x" * length)
            answered(mount, request, file, f"{length} bytes")


@case
def memory_that_cannot_be_read_is_efault(case: Case) -> None:
    """A write from missing or partly missing memory returns EFAULT and changes nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    # A page that ends with "1", followed by an unreadable one.
    area = mmap.mmap(-1, 2 * PAGE)
    area[PAGE - 1] = ord("1")
    begin = ctypes.addressof(ctypes.c_char.from_buffer(area))
    equal(libc.mprotect(ctypes.c_void_p(begin + PAGE), ctypes.c_size_t(PAGE), 0), 0)
    for _, start, file in each_file(case):
        request = start()
        with opened(request, file) as number:
            for address, length in ((8, 1), (begin + PAGE - 1, 2), (begin + PAGE, 1)):
                written = libc.write(number, ctypes.c_void_p(address), ctypes.c_size_t(length))
                equal(written, -1, "what write returns")
                equal(-ctypes.get_errno(), -EFAULT)
        unanswered(request, "unreadable memory")


@case
def splice_and_sendfile_are_writes_like_any_other(case: Case) -> None:
    """Data from splice and sendfile is a value like any other write."""
    for mount, start, file in each_file(case):
        for text in (b"0\n", b"x1", b"\0" * PAGE, b"1\n"):

            def by_splice(number: int, text: bytes = text) -> int:
                source, sink = os.pipe()
                os.write(sink, text)
                os.close(sink)
                try:
                    return os.splice(source, number, len(text))
                finally:
                    os.close(source)

            def by_sendfile(number: int, text: bytes = text) -> int:
                with tempfile.TemporaryFile() as source:
                    source.write(text)
                    source.flush()
                    return os.sendfile(number, source.fileno(), 0, len(text))

            for way in (by_splice, by_sendfile):
                request = start()
                with opened(request, file) as number:
                    if text == b"1\n":
                        equal(way(number), 2, way.__name__)
                        answered(mount, request, file, way.__name__)
                    else:
                        fails_with(EINVAL, way, number)
                        unanswered(request, text)


@case
def mapping_a_file_is_refused(case: Case) -> None:
    """The files cannot be mapped for reading or writing."""
    request = case.mount().started(0xAA)
    for file in Request.FILES:
        writable = file in FILES
        with opened(request, file, os.O_RDWR if writable else os.O_RDONLY) as number:
            for access in (mmap.ACCESS_READ, mmap.ACCESS_WRITE, mmap.ACCESS_COPY):
                if writable or access != mmap.ACCESS_WRITE:
                    fails_with(ENODEV, partial(mmap.mmap, number, PAGE, access=access))
    unanswered(request, "mmap")


@case
def nonsense_from_many_sides_changes_nothing(case: Case) -> None:
    """Concurrent writes of anything but true, even through shared files, change nothing."""
    mount = case.mount()
    request = mount.started(0xAA)
    waiter = mount.waiter()
    shared = [os.open(request.path / file, os.O_RDWR | os.O_CLOEXEC) for file in FILES]

    def write_nonsense(seed: int) -> None:
        chance = random.Random(seed)
        own = [os.open(request.path / file, os.O_RDWR | os.O_CLOEXEC) for file in FILES]
        for _ in range(500):
            number = chance.choice((*shared, *own))
            bytes_of_chance = b"\xff" + chance.randbytes(9)
            text = chance.choice((b"o", b"n", b"0", b"\n", b"\0", b"of", bytes_of_chance))
            fails_with(EINVAL, os.pwrite, number, text, chance.choice((0, 1, PAGE)))

    children = []
    for seed in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                write_nonsense(seed)
                status = 0
            except CaseFailed as problem:
                print(f"# {problem}", flush=True)
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for number in shared:
        os.close(number)
    equal(statuses, [0] * 4, "how the processes ended")
    unanswered(request, "nonsense")
    waiter.stays_blocked()
    request.set_fenced()
    equal(waiter.answer(), 0)
    true(request.fenced(), "a single word of truth is enough")
