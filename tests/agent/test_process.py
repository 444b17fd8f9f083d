# SPDX-License-Identifier: GPL-2.0-only
"""Running a single command to its end or its limit."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from scoutfs_fenced import cgroup, process
from scoutfs_fenced.process import Ending
from support import until


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup v2 directory in which commands get their groups."""
    own = cgroup._own_directory()
    group = Path(own or "/nowhere", f"scoutfs-fence-case-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not (group / "cgroup.kill").exists():
            pytest.skip("this kernel has no cgroup.kill")
        yield group
    finally:
        with suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        until(lambda: removed(group), f"nothing runs in {group}")


def removed(group: Path) -> bool:
    """Removes a control group and those below it; returns whether that worked."""
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)
    return not group.exists()


@pytest.fixture(params=["group", "marks"], autouse=True)
def families(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the processes of commands are found; each case tests both ways."""
    way: str = request.param
    directory = str(request.getfixturevalue("group")) if way == "group" else None
    monkeypatch.setattr(cgroup, "delegated", lambda: directory)
    monkeypatch.setattr(process, "_left_behind", [])
    return way


def run(script: str, *, limit: float = 20, stdin: bytes = b"") -> tuple[Ending, list[str], float]:
    """Runs a script; returns its ending, output and duration."""
    said: list[str] = []
    began = time.monotonic()
    ending = asyncio.run(
        process.run(
            ["/bin/bash", "-c", script],
            environment=os.environ,
            limit=limit,
            stdin=stdin,
            say=said.append,
        )
    )
    return ending, said, time.monotonic() - began


def running(word: str) -> bool:
    """Whether any process has this word in its command line."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in words:
                return True
    return False


@pytest.mark.parametrize("status", [0, 1, 255])
def test_the_exit_status_is_told(status: int) -> None:
    ending, _, _ = run(f"exit {status}")
    assert ending == Ending(status=status)
    assert ending.succeeded == (status == 0)
    assert str(ending) == f"exit status {status}"


def test_a_signal_that_ends_it_is_told() -> None:
    ending, _, _ = run("kill -9 $$")
    assert ending == Ending(signal=9)
    assert not ending.succeeded
    assert str(ending) == "killed by signal 9"


def test_a_command_that_cannot_be_started() -> None:
    async def start(*command: str) -> tuple[Ending, list[str]]:
        said: list[str] = []
        return await process.run(command, environment={}, limit=9, say=said.append), said

    files = len(os.listdir("/proc/self/fd"))
    ending, [said] = asyncio.run(start("/nowhere"))
    assert ending == Ending(status=127)
    assert re.search("/nowhere.*: No such file or directory", said)
    ending, [said] = asyncio.run(start("/etc/passwd"))
    assert ending == Ending(status=126)
    assert re.search("/etc/passwd.*: Permission denied", said)
    assert str(asyncio.run(start("/bin/true", "a\0b"))[0]) == "cannot be run: embedded null byte"
    assert len(os.listdir("/proc/self/fd")) == files, "no file stays open"


def test_a_script_without_a_first_line_is_run_by_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("[[ $1 == 'two words' ]] && exit 7\n")
    script.chmod(0o755)
    arguments = [str(script), "two words"]
    ending = asyncio.run(process.run_file(arguments, environment={}, limit=9, say=print))
    assert ending == Ending(status=7)


@pytest.mark.parametrize("text", ["", "\n", "\n \n", "\x7fEL\0", "echo\0"])
def test_what_is_no_program_is_not_run(tmp_path: Path, text: str) -> None:
    """Shells run an empty file with success."""
    file = tmp_path / "file"
    file.write_text(text)
    file.chmod(0o755)
    ending = asyncio.run(process.run_file([str(file)], environment={}, limit=9, say=print))
    assert str(ending) == "cannot be run: it is neither a program nor a script"


@pytest.fixture
def unloadable(tmp_path: Path) -> Iterator[Path]:
    """A program that takes for ever to load: opening it waits for the holder of a lease."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    before = signal.signal(signal.SIGIO, lambda *_: None)
    with program.open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield program
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, before)


def test_a_program_that_does_not_load_holds_up_nothing_else(unloadable: Path) -> None:
    async def both() -> tuple[Ending, Ending, float]:
        began = time.monotonic()
        hanging = asyncio.ensure_future(
            process.run([str(unloadable)], environment={}, limit=5, say=print)
        )
        await asyncio.sleep(0)
        other = await process.run(["/bin/true"], environment={}, limit=9, say=print)
        seconds = time.monotonic() - began
        return await hanging, other, seconds

    hanging, other, seconds = asyncio.run(both())
    assert (hanging, other) == (Ending(over_limit=5), Ending(status=0))
    assert seconds < 4
    until(lambda: not running(str(unloadable)), "it is killed")


def test_its_environment_is_the_given_one_and_may_have_a_mark(families: str) -> None:
    said: list[str] = []
    command = ["/usr/bin/env"]
    asyncio.run(process.run(command, environment={"A": "b"}, limit=9, say=said.append))
    mark = [process.MARK] if families == "marks" else []
    assert [line.partition("=")[0] for line in said] == ["A", *mark]


def test_it_starts_with_signals_as_programs_expect_them() -> None:
    _, said, _ = run("grep -E 'Sig(Blk|Ign)' /proc/self/status")
    masks = [int(line.split()[1], 16) for line in said]
    # Python ignores SIGPIPE and SIGXFSZ.
    python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert [mask & python for mask in masks] == [0, 0]


def test_it_inherits_no_open_file() -> None:
    with open("/etc/passwd") as file:
        os.set_inheritable(file.fileno(), True)
        _, said, _ = run("ls /proc/self/fd | sort -n")
    # The last one is the directory opened by ls.
    assert said == ["0", "1", "2", "3"]


def test_standard_input_is_what_is_given_of_any_length() -> None:
    ending, said, _ = run("wc -c", stdin=b"x" * 1_000_000)
    assert (ending.status, said) == (0, ["1000000"])
    assert run("exec 0<&-; sleep 0.1", stdin=b"x" * 1_000_000)[0].status == 0
    assert run("cat; exit 3")[:2] == (Ending(status=3), [])


def test_it_has_a_session_of_its_own() -> None:
    _, said, _ = run("ps -o sid= -p $$ | tr -d ' '; echo $$")
    assert said[0] == said[1] != str(os.getsid(0))


def test_standard_output_and_error_are_said_line_by_line_as_they_come() -> None:
    _, said, _ = run("echo one; echo two >&2; echo; printf 'th\\033ree\\377'")
    assert said == ["one", "two", "th ree\N{REPLACEMENT CHARACTER}"]


def test_a_limit_ends_it_with_sigterm() -> None:
    ending, said, seconds = run(
        "trap 'echo told; exit' TERM; while :; do sleep 0.05; done", limit=0.5
    )
    assert ending == Ending(over_limit=0.5)
    assert not ending.succeeded
    assert str(ending) == "killed for taking longer than 0.5 s"
    assert said[-1] == "told"
    assert 0.5 <= seconds < 0.5 + process.GRACE


def test_a_success_after_the_limit_is_none() -> None:
    ending, _, _ = run("trap 'exit 0' TERM; while :; do sleep 0.05; done", limit=0.3)
    assert not ending.succeeded


def test_one_that_ignores_sigterm_is_killed_with_its_group() -> None:
    ending, _, seconds = run(
        "trap '' TERM; sleep 1234.1 & while :; do sleep 1234.2; done", limit=0.3
    )
    assert ending.over_limit == 0.3
    assert 0.3 + process.GRACE <= seconds < 5
    until(lambda: not running("1234.1") and not running("1234.2"), "all are killed")


def test_children_that_went_elsewhere_are_killed_too() -> None:
    # Children in another session, or in one whose parent is gone before or at the limit.
    ending, _, _ = run(
        "setsid sleep 1234.3 & (setsid sleep 1234.4 &) & "
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; (setsid sleep 1234.5 &) ; sleep 1234.6' & "
        "sleep 1234.7; sleep 1234.8",
        limit=0.5,
    )
    assert ending.over_limit
    for number in range(3, 9):
        until(lambda n=number: not running(f"1234.{n}"), f"the child {number} is killed")  # type: ignore[misc]


def test_other_commands_are_let_alone_when_one_is_killed(tmp_path: Path) -> None:
    late = tmp_path / "late"

    async def both() -> tuple[Ending, Ending]:
        async def one(script: str, limit: float) -> Ending:
            command = ["/bin/sh", "-c", script]
            return await process.run(command, environment=os.environ, limit=limit, say=print)

        return await asyncio.gather(
            one(f"(setsid sh -c 'sleep 1; touch {late}' &); sleep 2; test -e {late}", 20),
            one("(setsid sleep 77 &); sleep 77", 0.5),
        )

    ending, killed = asyncio.run(both())
    assert ending == Ending(status=0)
    assert killed.over_limit


def test_one_that_leaves_children_ends_when_it_ends_itself(tmp_path: Path) -> None:
    """The children keep its output open, live on, and may still print."""
    late = tmp_path / "late"

    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    async def leave() -> float:
        others = children()
        began = time.monotonic()
        ending = await process.run(
            ["/bin/bash", "-c", f"(sleep 0.4; echo more; echo $? >{late}) & exit 0"],
            environment=os.environ,
            limit=20,
            say=print,
        )
        seconds = time.monotonic() - began
        assert ending.succeeded
        files = len(os.listdir("/proc/self/fd"))
        while not late.exists() or not late.read_text():
            await asyncio.sleep(0.01)
        # Once the child is gone, its output is closed and no zombie is left.
        while len(os.listdir("/proc/self/fd")) >= files or children() - others:
            await asyncio.sleep(0.01)
        return seconds

    assert asyncio.run(leave()) < 0.3
    assert late.read_text() == "0\n", "printing worked"


@pytest.mark.parametrize("script", ["yes", "yes | tr -d '\\n'", "cat /dev/zero"])
def test_one_that_prints_without_end_costs_neither_memory_nor_log(script: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ending, said, seconds = run(script, limit=1)
    assert ending.over_limit
    assert seconds < 1 + process.GRACE + process.TO_DIE
    assert len(said) <= process.MOST_LINES + 1
    assert max(map(len, said)) <= process.LONGEST_LINE
    assert "bytes more, which are left out" in said[-1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10, "in KiB"


def test_one_that_prints_much_is_not_held_up() -> None:
    ending, said, _ = run("head -c 50000000 /dev/zero | tr '\\0' 'x'; echo; echo end; exit 5")
    assert ending.status == 5
    assert said[-1] == f"(and {50_000_000 - process.LONGEST_LINE} bytes more, which are left out)"


@pytest.mark.parametrize("times", [1, 2, 5])
def test_cancelling_ends_it_after_its_second_of_grace(times: int) -> None:
    """However often it is cancelled."""

    async def cancel() -> float:
        script = "trap '' TERM; while :; do sleep 4321.1; done"
        task = asyncio.ensure_future(
            process.run(["/bin/sh", "-c", script], environment=os.environ, limit=99, say=print)
        )
        while not running("4321.1"):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        for _ in range(times):
            task.cancel()
            await asyncio.wait({task}, timeout=0.05)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not process._running, "nothing waits for it any more"
        return time.monotonic() - began

    assert process.GRACE <= asyncio.run(cancel()) < process.GRACE + 1
    until(lambda: not running("4321.1"), "it is killed")


# Ends a session on a device when it gets SIGTERM.
LOGOUT = """#!/bin/bash
trap 'sleep 0.4; echo logged out >{file}; exit' TERM
echo >{ready}
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("how", ["{} & wait", "setsid {} & wait", "(setsid {} &); sleep 60"])
def test_its_children_have_a_second_as_well(tmp_path: Path, how: str, times: int) -> None:
    """Even if the command itself, a shell, ends at once."""
    file, ready = tmp_path / "file", tmp_path / "ready"
    child = tmp_path / "child"
    child.write_text(LOGOUT.format(file=file, ready=ready))
    child.chmod(0o755)

    async def cancel() -> None:
        command = ["/bin/bash", "-c", how.format(child)]
        task = asyncio.ensure_future(
            process.run(command, environment=os.environ, limit=99, say=print)
        )
        while not ready.exists():
            await asyncio.sleep(0.01)
        for _ in range(times):
            task.cancel()
            await asyncio.wait({task}, timeout=0.05)
        await asyncio.wait({task})

    asyncio.run(cancel())
    assert file.read_text() == "logged out\n"


def test_nothing_leaves_its_control_group(group: Path, families: str) -> None:
    """Not even with another session, parent and environment."""
    if families == "marks":
        pytest.skip("only control groups can do this")
    ending, _, _ = run("(env -i setsid sleep 1234.9 &); sleep 1234.9", limit=0.3)
    assert ending.over_limit
    until(lambda: not running("1234.9"), "it is killed")


def test_what_is_left_behind_keeps_its_control_group(group: Path, families: str) -> None:
    if families == "marks":
        pytest.skip("there is none")

    def groups() -> int:
        return len(list(group.glob("command-*")))

    async def leave() -> None:
        async def one(script: str) -> None:
            command = ["/bin/bash", "-c", script]
            await process.run(command, environment=os.environ, limit=9, say=print)

        await one("exec >/dev/null; sleep 0.5 &")
        assert groups() == 1, "it runs in it"
        await one("exit 0")
        assert groups() == 1, "nothing ran in the other one any more"
        await asyncio.sleep(0.6)
        await one("exit 0")
        assert groups() == 0

    asyncio.run(leave())


def test_only_a_control_group_that_is_delegated_is_used(group: Path) -> None:
    def told() -> str:
        package = Path(cgroup.__file__).parents[1]
        script = (
            f"import sys; sys.path.insert(0, '{package}'); "
            f"open('{group}/cgroup.procs', 'w').write('0'); "
            "from scoutfs_fenced import cgroup; print(cgroup.delegated())"
        )
        command = [sys.executable, "-B", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert told() == "None"
    os.setxattr(group, "trusted.delegate", b"0")
    assert told() == "None"
    os.setxattr(group, "trusted.delegate", b"1")
    assert told() == str(group)


def test_hundreds_at_once_beside_other_threads() -> None:
    busy = True

    def work() -> None:
        while busy:
            hashlib.sha256(os.urandom(100_000)).hexdigest()

    async def many() -> list[Ending]:
        command = [sys.executable, "-c", "raise SystemExit(4)"]
        one = (process.run(command, environment={}, limit=60, say=print) for _ in range(100))
        return await asyncio.gather(*one)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert set(asyncio.run(many())) == {Ending(status=4)}
    finally:
        busy = False
        for thread in threads:
            thread.join()
    assert not process._running, "nothing waits for them any more"
