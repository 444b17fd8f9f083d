# SPDX-License-Identifier: GPL-2.0-only
"""A fence agent that does what a case wants."""

from __future__ import annotations

from pathlib import Path

from scoutfs_fenced.hosts import Device

# Ends as the files named by its action say, and tells what it was given.
FAKE = """#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
cd {folder}
input=$(cat)
action=$(sed -n s/^action=//p <<<"$input")
echo "$action" >>actions
echo "$input" >"input.$action"
tr '\\0' '\\n' </proc/$$/environ >>seen
tr '\\0' '\\n' </proc/$$/cmdline >>seen
[ ! -e "do.$action" ] || . "./do.$action"
case $action in
off | on) exit 0 ;;
status) exit 2 ;;
esac
exit 1
"""

SECRET = "hunter2 & co"


class Fake:
    """A fence agent made for the purpose, and the level that calls it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.agent = folder / "fence_it"
        self.agent.write_text(FAKE.format(folder=folder))
        self.agent.chmod(0o755)
        self.secret = folder / "secret"
        self.secret.touch(mode=0o600)
        self.secret.write_text(SECRET)

    def does(self, action: str, script: str) -> Fake:
        """What else it does for this action, in place of what it usually does where it exits."""
        (self.folder / f"do.{action}").write_text(script)
        return self

    def level(self, *, level: int = 1, action: str = "off", limit: float = 60) -> Device:
        parameters = {"ip": "10.0.9.11", "plug": "3"}
        secrets = {"password": str(self.secret)}
        return Device("node1", level, str(self.agent), action, limit, parameters, secrets, False)

    def actions(self) -> list[str]:
        path = self.folder / "actions"
        return path.read_text().split() if path.exists() else []
