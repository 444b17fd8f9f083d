# SPDX-License-Identifier: GPL-2.0-only
"""Commands that the agent runs for an administrator, in its own environment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from support import AGENT, World, alive, until

HOSTS = """
[node1]
address = 10.0.0.11
agent = {agent}
"""

# A fence agent that reports its environment.
TELLS = """
[ "$1" != -o ] || exec cat <<END
<resource-agent><actions><action name="off"/><action name="status"/></actions></resource-agent>
END
case $(sed -n s/^action=//p) in
status) echo "$$" >>status.pid; env >environment; {more} exit 0 ;;
esac
exit 1
"""


def check(world: World, *, output: int = subprocess.PIPE, **more: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "RUNTIME_DIRECTORY": str(world.runtime),
        "SSH_AUTH_SOCK": "/of/a/person",
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-B", AGENT, "check"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    )


def prepare(world: World, more: str = "") -> Path:
    """Sets up a host with a device that answers."""
    agent = world.command(TELLS.format(more=more), "fence_tells")
    hosts = world.folder / "hosts"
    hosts.write_text(HOSTS.format(agent=agent))
    world.configure("exit 0", hosts=hosts)
    return hosts


def test_check_has_the_agents_environment(world: World) -> None:
    prepare(world)
    world.begin(OF_THE_AGENT="yes", NOTIFY_SOCKET="/nowhere").says("serving fence requests")
    done = check(world)
    said, complaints = done.communicate(timeout=20)
    assert (done.returncode, complaints) == (0, ""), said + complaints
    assert "node1" in said
    environment = (world.folder / "environment").read_text().splitlines()
    assert "OF_THE_AGENT=yes" in environment
    names = {line.partition("=")[0] for line in environment}
    assert not names & {"SSH_AUTH_SOCK", "NOTIFY_SOCKET"}


def test_a_failure_and_a_mistake_have_their_exit_status(world: World) -> None:
    hosts = prepare(world, "exit 1;")
    world.begin().says("serving fence requests")
    done = check(world)
    assert "FAILED" in done.communicate(timeout=20)[0]
    assert done.returncode == 1
    # The check reads the current files, not the agent's state.
    hosts.write_text("nonsense\n")
    done = check(world)
    assert f"{hosts}, line 1" in done.communicate(timeout=20)[1]
    assert done.returncode == 78


def test_another_configuration_may_be_checked(world: World) -> None:
    prepare(world)
    world.begin().says("serving fence requests")
    other = world.folder / "other.conf"
    other.write_text("SCOUTFS_FENCED_RUN=/nowhere\n")
    done = check(world, SCOUTFS_FENCED_CONFIG_FILE=str(other))
    assert f"{other}, line 1" in done.communicate(timeout=20)[1]
    assert done.returncode == 78


def test_without_an_agent_check_tells_that_it_is_another_environment(world: World) -> None:
    prepare(world)
    done = check(world, SCOUTFS_FENCED_CONFIG_FILE=str(world.configuration))
    _, complaints = done.communicate(timeout=20)
    assert (done.returncode, "no agent answers" in complaints) == (0, True)


def test_check_ends_with_whoever_asked(world: World) -> None:
    prepare(world, "exec sleep 60;")
    world.begin().says("serving fence requests")
    asking = check(world)
    pids = world.folder / "status.pid"
    until(pids.exists, "it asks")
    time.sleep(0.1)
    asking.kill()
    asking.communicate()
    until(lambda: not alive(pids.read_text().split()[0]), "it is ended")


def test_check_ends_with_the_agent(world: World) -> None:
    prepare(world, "exec sleep 60;")
    agent = world.begin().says("serving fence requests")
    asking = check(world)
    until((world.folder / "status.pid").exists, "it asks")
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    asking.communicate(timeout=20)
    pid = (world.folder / "status.pid").read_text().split()[0]
    until(lambda: not alive(pid), "it is ended")


def test_nothing_else_can_be_run(world: World) -> None:
    prepare(world)
    agent = world.begin().says("serving fence requests")
    for asked in (
        b'{"arguments": ["--sysfs", "/sys"]}\n',
        b'{"arguments": ["status"]}\n',
        b'{"arguments": ["fence", "node1"]}\n',
        b'{"arguments": []}\n',
        b'{"arguments": "check"}\n',
        b"[]\n",
        b"nonsense\n",
        b"no end",
        b"",
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(world.runtime / "relay"))
            socket.send_fds(connection, [asked or b" "], [1, 1, 1])
            if not asked.endswith(b"\n"):
                # Not after a complete one: the agent would take EOF for a client that has gone,
                # and end the command.
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(20)
            assert connection.recv(10) == b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(world.runtime / "relay"))
        connection.sendall(b'{"arguments": ["check"]}\n')
        assert connection.recv(10) == b"", "without the open files"
    assert (world.runtime / "relay").stat().st_mode & 0o777 == 0o600
    agent.stop()
