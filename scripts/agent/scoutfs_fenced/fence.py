# SPDX-License-Identifier: GPL-2.0-only
"""`scoutfs-fenced fence HOST`: really fences a host, as a test before a cluster goes live.

The agent does it, with its devices, limits and rights: what works here works at three in the
morning. It answers no request.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from scoutfs_fenced.acknowledge import resolve_host
from scoutfs_fenced.instance import folder
from scoutfs_fenced.people import Refused, confirm, who

# Longer than the agent takes.
SECONDS_TO_ANSWER = 120.0


def ask_and_fence(host: str) -> int:
    """Asks for confirmation, and has the agent fence the host; returns 0 if it was fenced."""
    try:
        addresses = resolve_host(host)
        print(f"The host         {host}")
        print(f"at the addresses {', '.join(addresses)}")
        print("is switched off now, whatever runs on it.\n")
        confirm("To have it fenced", host)
        answer = _ask(host)
    except Refused as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return 1
    print(f"{'fenced' if answer['fenced'] else 'NOT fenced'}: {answer['how']}")
    return 0 if answer["fenced"] else 1


def _ask(host: str) -> dict[str, object]:
    path = os.path.join(folder(), "control")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS_TO_ANSWER)
            connection.connect(path)
            question = {"command": "fence", "host": host, "by": who()}
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer: dict[str, object] = json.loads(file.readline())
                return answer
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Refused(
            "no agent is running; start it with: systemctl start scoutfs-fenced"
        ) from error
    except PermissionError as error:
        raise Refused("only root may have a host fenced; run this as root") from error
    except KeyboardInterrupt as error:
        raise Refused("the agent goes on without you; see: scoutfs-fenced history") from error
    except (OSError, ValueError) as error:
        raise Refused(
            f"the agent does not answer at {path}: {error}; see: scoutfs-fenced history"
        ) from error
