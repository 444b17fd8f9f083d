# SPDX-License-Identifier: GPL-2.0-only
"""A fence agent with programmable behaviour."""

from __future__ import annotations

from pathlib import Path

from scoutfs_fenced.hosts import Device, Value

# Runs the file named after its action, if any, and records its input.
FAKE = """#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
cd {folder}
[ "$1 $2" != "-o metadata" ] || exec cat metadata
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

# Its metadata; a case may write another file.
METADATA = """<?xml version="1.0" ?>
<resource-agent name="fence_it"><parameters>
<parameter name="action" required="1"/>
<parameter name="ip" required="1" obsoletes="ipaddr"/>
<parameter name="ipaddr" required="1" deprecated="1"/>
<parameter name="plug" required="0" obsoletes="port"/>
<parameter name="port" required="0" deprecated="1"/>
<parameter name="password" required="0"/>
<parameter name="snmp_version" required="0"/>
</parameters><actions>
<action name="on" automatic="0"/><action name="off"/><action name="reboot"/>
<action name="status"/><action name="monitor"/><action name="metadata"/>
</actions></resource-agent>
"""

SECRET = "hunter2 & co"


class Fake:
    """A fake fence agent, and the level that calls it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.agent = folder / "fence_it"
        self.agent.write_text(FAKE.format(folder=folder))
        self.agent.chmod(0o755)
        (folder / "metadata").write_text(METADATA)
        self.secret = folder / "secret"
        self.secret.touch(mode=0o600)
        self.secret.write_text(SECRET)

    def does(self, action: str, script: str) -> Fake:
        """Adds a script to this action; if the script exits, it replaces the default behaviour."""
        (self.folder / f"do.{action}").write_text(script)
        return self

    def says(self, old: str, new: str) -> Fake:
        """Replaces text in its metadata."""
        path = self.folder / "metadata"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return self

    def level(
        self,
        *,
        level: int = 1,
        name: str = "",
        action: str = "off",
        limit: float = 60,
        unfence: bool = False,
        prepare: bool = False,
    ) -> Device:
        given = {"ip": "10.0.9.11", "plug": "3", "password_file": str(self.secret)}
        values = {key: Value(4, key, value) for key, value in given.items()}
        return Device(
            "node1",
            level,
            name,
            "hosts",
            1,
            str(self.agent),
            3,
            action=action,
            limit=limit,
            unfence=unfence,
            prepare=prepare,
            values=values,
        )

    def actions(self) -> list[str]:
        path = self.folder / "actions"
        return path.read_text().split() if path.exists() else []
