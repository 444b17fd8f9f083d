# SPDX-License-Identifier: GPL-2.0-only
"""A BMC on loopback: OpenIPMI's simulator, with a file as its chassis."""

import signal
import socket
import subprocess
from pathlib import Path

USER = "fencing"
PASSWORD = "S3cret&it's"

# The simulator calls this to read and switch the chassis power.
CHASSIS = """#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
echo "$2 $3 $4" >>calls
case "$2 $3" in
"get power") echo "power:$(cat power)" ;;
"set power") [ -e stuck ] || echo "$4" >power ;;
esac
"""

LAN = """
name "bmc"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{folder}/chassis 0x20"
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
"""

COMMANDS = """
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
mc_enable 0x20
"""


class Bmc:
    """A BMC whose host is on.

    `script` reads and switches the chassis power; by default a file holds it.
    """

    def __init__(self, folder: Path, script: str = CHASSIS) -> None:
        self.folder = folder
        self.port = free_port()
        self._power = folder / "power"
        self._power.write_text("1\n")
        chassis = folder / "chassis"
        chassis.write_text(script)
        chassis.chmod(0o755)
        self.password_file = folder / "password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(f"{PASSWORD}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Starts the simulator; returns once it answers."""
        lan, commands = self.folder / "lan.conf", self.folder / "commands"
        lan.write_text(LAN.format(folder=self.folder, port=self.port, user=USER, password=PASSWORD))
        commands.write_text(COMMANDS)
        self._process = subprocess.Popen(
            ["ipmi_sim", "-n", "-p", "-c", lan, "-f", commands, "-s", self.folder],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout
        said = []
        for line in self._process.stdout:
            said.append(line.decode(errors="replace"))
            if "Opened UDP port" in said[-1]:
                return
        raise AssertionError(f"ipmi_sim ended: {''.join(said)}")

    def end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def is_on(self) -> bool:
        return self._power.read_text() == "1\n"

    def stays_on(self) -> None:
        """From now on it reports success but does not switch the power."""
        (self.folder / "stuck").touch()

    def calls(self) -> list[str]:
        """The requests to the chassis."""
        path = self.folder / "calls"
        return [line.strip() for line in path.read_text().splitlines()] if path.exists() else []

    def be_silent(self, silent: bool) -> None:
        """Stops the simulator if `silent`, so that it answers nothing; otherwise resumes it."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP if silent else signal.SIGCONT)

    def parameters(self, ip: str = "127.0.0.1", password_file: Path | None = None) -> str:
        """Its hosts file entry, on a host that reaches it at `ip`."""
        return (
            "agent = fence_ipmilan\n"
            f"ip = {ip}\n"
            f"ipport = {self.port}\n"
            "lanplus = 1\n"
            f"username = {USER}\n"
            f"password_file = {password_file or self.password_file}\n"
            # Only a real chassis needs a moment.
            "power_wait = 0\n"
        )


def free_port() -> int:
    """A free UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
