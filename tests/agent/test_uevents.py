# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's uevents about requests, and the agent's reactions."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from scoutfs_fenced import scheduler
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.levels import Proof
from scoutfs_fenced.request import Request, RequestFiles
from scoutfs_fenced.server import Server
from scoutfs_fenced.slots import Place, Slots
from scoutfs_fenced.uevents import Uevent, Uevents, UeventsLost, parse
from support import World, remove, result, rid

DIRECTORY = "fs/scoutfs/f.000001.r.000002/fence/00c0ffee00000001"


def message(action: str, subsystem: str = "scoutfs_fence", directory: str = DIRECTORY) -> bytes:
    lines = [
        f"{action}@/{directory}",
        f"ACTION={action}",
        f"DEVPATH=/{directory}",
        f"SUBSYSTEM={subsystem}",
        "SCOUTFS_FENCE_RID=00c0ffee00000001",
        "SEQNUM=4711",
    ]
    return "".join(f"{line}\0" for line in lines).encode()


@pytest.mark.parametrize("action", ["add", "change", "remove"])
def test_a_message_is_taken_apart(action: str) -> None:
    assert parse(message(action)) == Uevent(action, DIRECTORY)


@pytest.mark.parametrize(
    "other",
    [
        message("add", subsystem="net"),
        b"libudev\0\xfe\xed\xca\xfe",
        b"",
        b"add@/x\0SUBSYSTEM=scoutfs_fence\0",
        b"add@/x\0SUBSYSTEM=scoutfs_fence\0ACTION=add\0",
        b"SUBSYSTEM=scoutfs_fence",
    ],
)
def test_other_messages_are_none(other: bytes) -> None:
    assert parse(other) is None


class Socket:
    """A socket that returns these messages in order, each with its sender."""

    def __init__(self, *messages: tuple[bytes, int] | OSError) -> None:
        self._messages = list(messages)

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[int, int]]:
        if not self._messages:
            raise BlockingIOError
        first = self._messages.pop(0)
        if isinstance(first, OSError):
            raise first
        return first[0], (first[1], 1)


def listening_to(*messages: tuple[bytes, int] | OSError) -> Uevents:
    uevents = Uevents()
    uevents.close()
    fake: Any = Socket(*messages)
    uevents._socket = fake
    return uevents


def test_only_the_kernel_is_listened_to() -> None:
    uevents = listening_to((message("add"), 4711), (message("remove"), 0), (b"other", 0))
    assert uevents.receive() == Uevent("remove", DIRECTORY)
    assert uevents.receive() is None


def test_lost_messages_are_told() -> None:
    uevents = listening_to(OSError(errno.ENOBUFS, ""), (message("add"), 0))
    with pytest.raises(UeventsLost):
        uevents.receive()
    assert uevents.receive() == Uevent("add", DIRECTORY)


def test_there_is_room_for_thousands() -> None:
    uevents = Uevents()
    assert uevents._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 4 << 20
    assert uevents.receive() is None
    uevents.close()


# The server's reactions.


def serve(world: World, script: str, act: Callable[[Server], Awaitable[None]]) -> None:
    """Runs `act` on a server that does not scan on its own."""
    command = (str(world.command(script)),)

    async def main() -> None:
        settings = Configuration("", delay=600, command=command, environment=dict(os.environ))
        server = Server(settings, str(world.sysfs))
        await act(server)
        served = server.scheduler.requests
        await until(lambda: all(each.state == "done" for each in served.values()))
        await until(lambda: not server.scheduler.running())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(world.state))
        asyncio.run(main())


async def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def told(server: Server, *messages: bytes | OSError) -> None:
    server.discovery._uevents = listening_to(
        *(it if isinstance(it, OSError) else (it, 0) for it in messages)
    )
    server.discovery._receive()


def test_add_has_it_fenced(world: World) -> None:
    directory = world.request()

    async def act(server: Server) -> None:
        told(server, message("add"), message("add"))

    serve(world, "echo x >>record", act)
    assert result(directory) == "fenced"
    assert len(world.recorded()) == 1


def test_change_by_the_agent_itself_does_nothing(world: World) -> None:
    directory = world.request()

    async def act(server: Server) -> None:
        told(server, message("add"))
        await until(lambda: result(directory))
        told(server, message("change"))

    serve(world, "exit 0", act)
    assert result(directory) == "fenced"


def test_change_by_others_does_not_end_the_command(world: World) -> None:
    directory = world.request()

    async def act(server: Server) -> None:
        told(server, message("add"))
        await until(world.recorded)
        (directory / "error").write_text("1\n")
        told(server, message("change"))
        served = server.scheduler.requests[str(directory)]
        assert (served.state, server.scheduler.running()) == ("done", 1)

    serve(world, "echo x >>record; sleep 0.3; echo y >>record", act)
    assert result(directory) == "error"
    assert world.recorded() == ["x", "y"]


def answer_as_sysfs(_files: RequestFiles) -> bool:
    """Fails like the open files of a request that is gone."""
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def test_remove_does_not_end_the_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = world.request()

    async def act(server: Server) -> None:
        told(server, message("add"))
        await until(world.recorded)
        remove(directory)
        monkeypatch.setattr(RequestFiles, "finished", answer_as_sysfs)
        told(server, message("remove"))
        await until(lambda: server.scheduler.requests[str(directory)].state == "done")
        assert server.scheduler.running() == 1

    serve(world, "echo x >>record; sleep 0.3; echo y >>record", act)
    assert world.recorded() == ["x", "y"]


def test_remove_of_an_earlier_one_ends_nothing(world: World) -> None:
    """A scan may find the next request of the same name before its messages are read."""
    directory = world.request()

    async def act(server: Server) -> None:
        await server.discovery.scan()
        await until(world.recorded)
        told(server, message("remove"), message("add"))
        await asyncio.sleep(0.1)

    serve(world, "echo x >>record; sleep 0.3", act)
    assert result(directory) == "fenced"
    assert len(world.recorded()) == 1


def test_messages_about_the_unknown_do_nothing(world: World) -> None:
    async def act(server: Server) -> None:
        told(server, message("add"), message("change"), message("remove"))
        assert not server.scheduler.requests

    serve(world, "exit 0", act)


@pytest.mark.parametrize("mount", ["otherfs/f.1", "scoutfs", "scoutfs/f.1/deeper"])
def test_a_request_that_no_scan_finds_is_not_served(
    world: World, capfd: pytest.CaptureFixture[str], mount: str
) -> None:
    """The next scan would take it for gone, and its mounts are not known here."""
    directory = world.request(mount=mount)
    path = str(directory.relative_to(world.sysfs))

    async def act(server: Server) -> None:
        told(server, *(message(action, directory=path) for action in ("add", "change", "remove")))
        await server.discovery.scan()

    serve(world, "exit 0", act)
    assert result(directory) == ""
    assert capfd.readouterr().out.count(f"the request {directory} is not served: ") == 1


def test_lost_messages_make_it_look(world: World) -> None:
    async def act(server: Server) -> None:
        assert not server.discovery._scan_now.is_set()
        told(server, OSError(errno.ENOBUFS, ""))
        assert server.discovery._scan_now.is_set()

    serve(world, "exit 0", act)


def test_no_socket_is_no_obstacle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Uevents) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    directory = world.request()
    monkeypatch.setattr(Uevents, "__init__", refuse)

    async def act(server: Server) -> None:
        server.discovery.listen()
        assert not server.discovery.has_uevents
        await server.discovery.scan()

    serve(world, "exit 0", act)
    assert result(directory) == "fenced"


def test_a_directory_that_cannot_be_read_is_told_of_once(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A request that cannot be served is logged once, whatever the reason."""
    directory = world.request().parent
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == str(directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    async def act(server: Server) -> None:
        for _ in range(3):
            await server.discovery.scan()

    serve(world, "exit 0", act)
    said = capfd.readouterr().out
    assert said.count(f"cannot look for requests in {directory}: Permission denied") == 1


@pytest.mark.parametrize("where", ["fs/scoutfs", "fs/scoutfs/{mount}/fence"])
def test_a_request_is_not_lost_with_a_directory_that_cannot_be_scanned(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    directory = world.request()
    other = world.request(rid(2), mount="scoutfs_fence/0:41", address="10.0.0.2")
    refused = str(world.sysfs / where.format(mount=directory.parents[1].name))
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == refused:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return scandir(path)

    async def act(server: Server) -> None:
        await server.discovery.scan()
        monkeypatch.setattr(os, "scandir", refuse)
        remove(other)
        await server.discovery.scan()
        assert list(server.scheduler.requests) == [str(directory)]

    serve(world, "sleep 0.3", act)
    assert result(directory) == "fenced"


def test_an_answer_is_not_lost_with_files_that_cannot_be_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is remembered, and the next attempt writes it."""
    directory = world.request()
    opened = RequestFiles.__init__

    def refuse(files: RequestFiles, request: Request) -> None:
        if world.recorded() and not (world.folder / "go").exists():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened(files, request)

    monkeypatch.setattr(RequestFiles, "__init__", refuse)

    async def act(server: Server) -> None:
        told(server, message("add"))
        await until(lambda: server.scheduler.requests and not server.scheduler.running())
        await until(world.recorded)
        await asyncio.sleep(0.3)
        assert result(directory) == ""
        (world.folder / "go").touch()

    serve(world, "echo x >>record", act)
    assert result(directory) == "fenced"
    assert len(world.recorded()) == 1


def test_a_record_is_not_lost_with_files_that_cannot_be_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a request that needs no command."""
    directory = world.request()
    opened = RequestFiles.__init__

    def refuse(files: RequestFiles, request: Request) -> None:
        if not (world.folder / "go").exists():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened(files, request)

    monkeypatch.setattr(RequestFiles, "__init__", refuse)

    async def act(server: Server) -> None:
        server.records.add_fenced("00c0ffee00000001", "10.1.2.3", "", "somehow")
        told(server, message("add"))
        await asyncio.sleep(0.1)
        (world.folder / "go").touch()

    serve(world, "echo x >>record", act)
    assert result(directory) == "fenced"
    assert world.recorded() == []


@pytest.mark.parametrize("proves", [True, False])
def test_an_attempt_that_does_not_end_is_ended(
    world: World, monkeypatch: pytest.MonkeyPatch, proves: bool
) -> None:
    """As if the power could not be switched on again: other requests for the host go on."""
    directory = world.request()

    async def hang(*_: object, proven: Callable[[Proof], None], **_more: object) -> None:
        if proves:
            proven(Proof(time.monotonic(), "somehow"))
        await asyncio.sleep(600)

    monkeypatch.setattr(scheduler, "run_attempt", hang)
    monkeypatch.setattr(scheduler, "SECONDS_OVER", 0.2)

    async def act(server: Server) -> None:
        server.scheduler.settings = dataclasses.replace(server.settings, limit=0.2, retries=0)
        told(server, message("add"))

    serve(world, "exit 0", act)
    assert result(directory) == ("fenced" if proves else "error")


def test_slots_go_to_the_most_urgent() -> None:
    """A place that is moved forward is granted once, even if others are as urgent."""

    async def main() -> None:
        slots = Slots(1)
        order: list[str] = []

        async def take(name: str, place: Place) -> None:
            async with slots.slot(place):
                order.append(name)
                await asyncio.sleep(0.01)

        places = {name: slots.place((1.0,)) for name in "abcd"}
        slots.hurry(places["a"], (0.0,))
        slots.hurry(places["d"], (0.5,))
        slots.hurry(places["c"], (2.0,))
        await asyncio.gather(*(take(name, place) for name, place in places.items()))
        assert order == ["a", "d", "b", "c"]
        assert slots.place((1.0,)).granted.done(), "every slot was given back"

    asyncio.run(main())


# Results that the kernel refuses.


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ESTALE])
def test_a_result_that_comes_too_late(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
) -> None:
    world.request()
    refused = OSError(number, os.strerror(number))

    def refuse(_file: int, _data: bytes, _offset: int) -> int:
        raise refused

    async def act(server: Server) -> None:
        monkeypatch.setattr("os.pwrite", refuse)
        told(server, message("add"))

    serve(world, "exit 0", act)
    why = {
        errno.ENODEV: "the request is gone",
        errno.ESTALE: "the request had already failed",
    }
    assert f"s, but {why[number]}" in capfd.readouterr().out
    assert result(Path(world.sysfs, DIRECTORY)) == ""


@pytest.mark.parametrize("call", ["pread", "pwrite"])
def test_a_result_that_cannot_be_written_yet_is_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A request that is fenced is not fenced again for that."""
    world.request()
    real = getattr(os, call)
    failed: list[int] = []

    def fail_twice(file: int, *rest: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{file}")
        if len(failed) < 2 and name.endswith(("/fenced", "/error")) and world.recorded():
            failed.append(file)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, *rest)

    async def act(server: Server) -> None:
        monkeypatch.setattr(os, call, fail_twice)
        told(server, message("add"))

    serve(world, "echo x >>record", act)
    assert len(failed) == 2
    assert result(Path(world.sysfs, DIRECTORY)) == "fenced"
    assert len(world.recorded()) == 1


def test_a_result_that_is_written_later_needs_no_slot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is known to be fenced does not wait until another host is."""
    first = world.request(rid(2), address="10.0.0.2", mount="scoutfs/1")
    real, failed = os.pwrite, list[int]()

    def fail_once(file: int, *rest: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{file}")
        if not failed and DIRECTORY in name:
            failed.append(file)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return real(file, *rest)

    async def act(server: Server) -> None:
        server.scheduler._slots.set_count(1)
        monkeypatch.setattr(os, "pwrite", fail_once)
        await server.discovery.scan()
        await until(world.recorded)
        server.records.add_fenced("00c0ffee00000001", "10.1.2.3", "", "somehow")
        second = world.request()
        await server.discovery.scan()
        await until(lambda: result(second) == "fenced")
        assert failed
        assert result(first) == ""

    serve(world, "echo x >>record; sleep 6", act)
