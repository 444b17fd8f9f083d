# SPDX-License-Identifier: GPL-2.0-only
"""The files installed by `make install-agent`."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
VERSION = (TOP / "VERSION").read_text().strip()
COMPLETION = TOP / "scripts" / "agent" / "scoutfs-fenced.bash"

PREFIXES = ["/usr/local", "/usr", "/opt/with a blank, 50% & $more"]


def make(folder: Path | None, prefix: str | None, umask: int = 0o022) -> None:
    """Installs the agent as a package build would."""
    variables = {"DESTDIR": str(folder)} if folder else {}
    if prefix is not None:
        # Escaped for make.
        variables["PREFIX"] = prefix.replace("$", "$$")
    given = [f"{name}={value}" for name, value in variables.items()]
    subprocess.run(
        ["make", "-s", "-C", str(TOP), "install-agent", *given],
        check=True,
        env={name: value for name, value in os.environ.items() if "MAKE" not in name},
        umask=umask,
    )


def installed(folder: Path) -> dict[str, str]:
    """All paths, each with its mode or symbolic link target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        told = os.readlink(path) if stat.S_ISLNK(mode) else f"{stat.S_IMODE(mode):o}"
        found[f"/{path.relative_to(folder)}"] = told
    return found


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    make(tmp_path / "root", None, umask)
    modes = installed(tmp_path / "root")
    runnable = {
        "/usr/local/libexec/scoutfs-fence/scoutfs-fenced",
        "/usr/local/libexec/scoutfs-fence/scoutfs_fenced/ipmitool-password-file",
    }
    for path, mode in modes.items():
        if path == "/usr/local/sbin/scoutfs-fenced":
            assert mode == "../libexec/scoutfs-fence/scoutfs-fenced"
        else:
            folder = (tmp_path / "root" / path[1:]).is_dir()
            assert mode == ("755" if folder or path in runnable else "644"), path
    assert runnable < modes.keys()


def test_all_that_belongs_to_it_is_installed(tmp_path: Path) -> None:
    make(tmp_path, None)
    modes = installed(tmp_path)
    for path in (
        "/etc/scoutfs",
        "/usr/local/lib/systemd/catalog/scoutfs-fenced.catalog",
        "/usr/local/lib/systemd/system/scoutfs-fenced.service",
        "/usr/local/share/bash-completion/completions/scoutfs-fenced",
        "/usr/local/share/man/man5/scoutfs-fenced.conf.5",
        "/usr/local/share/man/man5/scoutfs-fenced.hosts.5",
        "/usr/local/share/man/man8/scoutfs-fenced.8",
        "/usr/local/share/doc/scoutfs-fence/samples/scoutfs-fenced.conf",
        "/usr/local/share/doc/scoutfs-fence/samples/scoutfs-fenced.hosts",
    ):
        assert path in modes
    sources = {path.name for path in (TOP / "scripts/agent/scoutfs_fenced").glob("*.py")}
    package = tmp_path / "usr/local/libexec/scoutfs-fence/scoutfs_fenced"
    assert {path.name for path in package.glob("*.py")} == sources


@pytest.mark.parametrize("prefix", PREFIXES)
def test_it_runs_from_wherever_it_is_installed(tmp_path: Path, prefix: str) -> None:
    root = tmp_path / "with a blank"
    make(root, prefix)
    agent = root / prefix[1:] / "sbin" / "scoutfs-fenced"
    said = subprocess.run([agent, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"scoutfs-fenced {VERSION}\n"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_what_the_unit_starts(tmp_path: Path, prefix: str) -> None:
    # The unit contains the agent's final path, so install it there.
    prefix = f"{tmp_path}{prefix}"
    make(None, prefix)
    unit = Path(prefix, "lib/systemd/system/scoutfs-fenced.service")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert unit.name not in done.stderr, done.stderr


def test_a_prefix_that_is_no_whole_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        make(tmp_path, "usr")
    assert not installed(tmp_path)


def test_the_kernel_module_has_the_same_version() -> None:
    kbuild = (TOP / "Kbuild").read_text()
    assert re.search(r"^SCOUTFS_FENCE_VERSION := \$\(shell cat \$\(src\)/VERSION\)$", kbuild, re.M)


def complete(*words: str) -> set[str]:
    """The shell's completions after these words."""
    script = (
        f"source '{COMPLETION}'; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); "
        '_scoutfs_fenced scoutfs-fenced "${@: -1}" "${@: -2:1}"; printf \'%s\\n\' "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", "scoutfs-fenced", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def options_of(*command: str) -> set[str]:
    """The commands and long options in a help text."""
    agent = TOP / "scripts/agent/scoutfs-fenced"
    said = subprocess.run(
        [sys.executable, "-B", agent, *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = re.search(r"^  COMMAND\n((?:    .*\n)*)", said, re.M)
    words = re.findall(r"^    (\w+)", commands[1], re.M) if commands else []
    return {*words, *re.findall(r"--\w[\w-]*", said)}


def test_the_shell_completes_every_command_and_option() -> None:
    top = options_of()
    assert complete("") == top
    for command in top:
        if not command.startswith("-"):
            assert complete(command, "") >= options_of(command)
    assert complete("sta") == {"status"}
