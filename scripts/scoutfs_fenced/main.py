# SPDX-License-Identifier: GPL-2.0-only
"""The command line of scoutfs-fenced.

Without a subcommand it is the agent. The parts of it, each in a file of its own:

  configuration  what an administrator decides
  request        a request's directory in sysfs
  uevents        the kernel's messages about requests
  server         which request gets what, and when
  turns          whose command may run now
  fencing        how the host of one request is fenced
  process        one command, run to its end or to its limit
  status         answers whoever asks how it stands
  instance       that there is only one agent on a host
  log, notify    what systemd and people are told
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from scoutfs_fenced import configuration, log
from scoutfs_fenced.configuration import ConfigurationError
from scoutfs_fenced.instance import InstanceError, become_the_one, folder
from scoutfs_fenced.server import Server
from scoutfs_fenced.status import answer_at


def main() -> int:
    """Does what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scoutfs-fenced",
        description="Serves the fence requests that the kernel publishes in sysfs.",
        epilog=f"The configuration is {configuration.DEFAULT_PATH}, "
        f"or the file that {configuration.PATH_VARIABLE} names.",
    )
    parser.add_argument("--sysfs", default="/sys", help="where sysfs is mounted (%(default)s)")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.sysfs))
    except (ConfigurationError, InstanceError) as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return 1
    return 0


async def serve(sysfs: str) -> None:
    """Is the agent, until told to stop."""
    settings = await configuration.read(configuration.chosen_path(), log.event)
    become_the_one()
    server = Server(settings, sysfs)
    path = os.path.join(folder(), "status")
    try:
        await answer_at(path, server)
    except OSError as error:
        log.event(f"nobody can ask for the status at {path}: {error}", level=log.WARNING)
    await server.serve()
