# SPDX-License-Identifier: GPL-2.0-only
"""The command line of scoutfs-fenced.

Without a command it runs the agent, whose modules are:

  configuration  the configuration file
  server         the agent process: signals, reloads, shutdown
  discovery      finds requests in sysfs
  uevents        the kernel's uevents about requests
  request        a request's directory in sysfs
  scheduler      decides which host is fenced when, and answers the kernel
  slots          limits how many hosts are fenced at a time
  fencing        one attempt to fence the host of a request
  levels         fences one host by its topology levels
  device         one fence device: switches a host off, and proves it
  devices        the state of all devices, and their monitoring
  metadata       fence agents' actions and parameters
  sessions       limits concurrent logins to a device
  registrations  which hosts a device was seen to let in
  hosts          the hosts file: which devices fence which host
  process        runs one command to its end or its limit
  cgroup         a control group for each command
  mounts         which scoutfs mounts this host has
  addresses      which addresses this host has
  acknowledgements  what administrators have acknowledged
  records        which rids are fenced, and which were mounted here
  thread         runs what may block in a thread
  statefile      reads and writes state files
  events         events for the next three modules
  history        keeps the events, and shows them
  hook           runs the administrator's program for each
  metrics        counts them in a file for node_exporter
  status         the socket that reports the agent's state
  control        the socket for commands that the agent carries out
  relay          runs check in the agent's environment
  instance       the runtime folder, and the single-instance lock
  log, notify    the log, and messages to systemd

The commands, imported only when given, because most starts are the agent's:

  report         shows the requests, and what the agent does about them
  check          tests the configuration and the fence devices
  acknowledge    takes an administrator's word that a host is off
  fence          has the agent fence a host, as a test
  people         the login behind a command, and its confirmation
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from scoutfs_fenced import configuration, log, version
from scoutfs_fenced.configuration import ConfigurationError, UnreadConfigurationError
from scoutfs_fenced.control import serve_control
from scoutfs_fenced.instance import InstanceError, acquire_instance_lock, folder
from scoutfs_fenced.relay import COMMANDS, Relay, run_by_agent
from scoutfs_fenced.server import Server
from scoutfs_fenced.status import serve_status

# sysexits.h: a configuration error. systemd does not restart the agent after it.
EX_CONFIG = 78


def main() -> int:
    """Runs the command on the command line; returns the exit status."""
    arguments = _parse()
    if arguments.command == "status":
        from scoutfs_fenced.report import print_status

        return print_status(arguments.sysfs, arguments.json)
    if arguments.command == "ack":
        from scoutfs_fenced.acknowledge import ask_and_acknowledge

        return ask_and_acknowledge(
            arguments.sysfs,
            rid=arguments.rid,
            host=arguments.host,
            mount=arguments.mount,
            span=arguments.span,
            withdraw=arguments.withdraw,
        )
    if arguments.command == "fence":
        from scoutfs_fenced.fence import ask_and_fence

        return ask_and_fence(arguments.host)
    if arguments.command == "history":
        from scoutfs_fenced.history import print_history

        return print_history(arguments.json)
    if arguments.command in COMMANDS:
        status = run_by_agent(sys.argv[sys.argv.index(arguments.command) :])
        if status is not None:
            return status
    try:
        if arguments.command == "check":
            return asyncio.run(check(arguments.host))
        asyncio.run(serve(arguments.sysfs))
    except (InstanceError, UnreadConfigurationError) as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return 1
    except ConfigurationError as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return EX_CONFIG
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scoutfs-fenced",
        description="Serves the fence requests that the kernel publishes in sysfs, "
        "unless one of the commands below is given.",
        epilog=f"The configuration is {configuration.DEFAULT_PATH}, "
        f"or the file that {configuration.PATH_VARIABLE} names. See scoutfs-fenced(8).",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    parser.add_argument("--sysfs", default="/sys", help="where sysfs is mounted (%(default)s)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    status = commands.add_parser("status", help="show the requests, and what is done about them")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    check = commands.add_parser(
        "check", help="test configuration and fence devices; switches nothing off"
    )
    check.add_argument("--host", help="only this host of the hosts file, or of this address")
    ack = commands.add_parser("ack", help="say yourself that a host is off, or a mount fenced")
    ack.add_argument("--mount", help="whose request, if several mounts ask for the same")
    ack.add_argument("--host", help="a host of the hosts file, or an address")
    ack.add_argument(
        "--for",
        dest="span",
        metavar="SPAN",
        help="how long the word holds for requests that come, as in 15m (for a host: 15m)",
    )
    ack.add_argument("--withdraw", action="store_true", help="take back what was said")
    ack.add_argument("rid", nargs="?", help="the mount that is to be fenced, as status shows it")
    fence = commands.add_parser("fence", help="really fence a host, as a test; asks first")
    fence.add_argument("host", help="a host of the hosts file, or an address")
    history = commands.add_parser("history", help="show what has happened to requests and devices")
    history.add_argument("--json", action="store_true", help="as a JSON list")
    return parser.parse_args()


async def check(host: str | None) -> int:
    """Tests the configuration and the fence devices; returns the exit status."""
    from scoutfs_fenced.check import run_checks

    settings = await configuration.read(configuration.chosen_path(), print)
    return 1 if await run_checks(settings, host) else 0


async def serve(sysfs: str) -> None:
    """Runs the agent until a signal stops it."""
    settings = await configuration.read(configuration.chosen_path(), log.event)
    acquire_instance_lock()
    server = Server(settings, sysfs)
    path = os.path.join(folder(), "status")
    try:
        await serve_status(path, server)
        await serve_control(os.path.join(folder(), "control"), server.scheduler)
    except OSError as error:
        log.event(f"no command can reach the agent at {path}: {error}", level=log.WARNING)
    relay = Relay()
    try:
        relay.listen()
    except OSError as error:
        log.event(f"check does not run under the agent's conditions: {error}", level=log.WARNING)
    await server.serve()
    await relay.stop()
