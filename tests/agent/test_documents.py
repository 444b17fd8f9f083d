# SPDX-License-Identifier: GPL-2.0-only
"""The manual pages and other documents agree with the program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scoutfs_fenced import configuration, events, hosts, log

TOP = Path(__file__).resolve().parents[2]
AGENT = TOP / "scripts" / "agent"
README = (TOP / "README.md").read_text()
WALK = (TOP / "docs" / "three-nodes.md").read_text()


def manual(name: str) -> str:
    """A manual page, without its macros."""
    text = (AGENT / "man" / name).read_text()
    text = re.sub(r"\bFl -?", "--", text)
    return re.sub(r"^\.(?:[A-Z][a-z] ?)?", "", text, flags=re.MULTILINE)


AGENT_PAGE, CONFIGURATION_PAGE = manual("scoutfs-fenced.8"), manual("scoutfs-fenced.conf.5")
HOSTS_PAGE = manual("scoutfs-fenced.hosts.5")


def test_every_variable_of_the_configuration_is_described() -> None:
    for name in (*configuration.VARIABLES, "SCOUTFS_FENCED_RUN_ARGS"):
        assert name in CONFIGURATION_PAGE
        assert f"| `{name}` |" in README
    known = {*configuration.VARIABLES, "SCOUTFS_FENCED_RUN_ARGS", configuration.PATH_VARIABLE}
    given = r"SCOUTFS_FENCED_(?!REQ_|EVENT)[A-Z_]+"
    for text in (AGENT_PAGE, CONFIGURATION_PAGE, HOSTS_PAGE, README, WALK):
        assert set(re.findall(given, text)) <= known


def test_every_word_of_the_hosts_file_is_described() -> None:
    for word in hosts.WORDS:
        assert re.search(rf"^Ic {word}$", HOSTS_PAGE, re.MULTILINE), word
        assert f"| `{word}` |" in README


def test_every_command_and_option_is_described() -> None:
    def options(*command: str) -> set[str]:
        said = subprocess.run(
            [sys.executable, "-B", AGENT / "scoutfs-fenced", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return set(re.findall(r"--[a-z][a-z-]*", said)) - {"--help", "--sysfs"}

    said = subprocess.run(
        [sys.executable, "-B", AGENT / "scoutfs-fenced", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = re.findall(r"^    (\w+)", said.partition("  COMMAND\n")[2], re.MULTILINE)
    assert {"status", "check", "ack"} <= set(commands)
    for command in commands:
        assert re.search(rf"^It Cm {command}|^It {command}|^{command}\b", AGENT_PAGE, re.MULTILINE)
        assert f"scoutfs-fenced {command}" in README
    for option in options().union(*map(options, commands)):
        assert option in AGENT_PAGE


def test_every_kind_of_event_and_result_is_described() -> None:
    kinds = {value for name, value in vars(events).items() if name.isupper()}
    for kind in kinds:
        assert kind in CONFIGURATION_PAGE
        assert kind in AGENT_PAGE
    catalog = (AGENT / "scoutfs-fenced.catalog").read_text()
    for result, message_id in log.MESSAGE_IDS.items():
        assert message_id in AGENT_PAGE, result
        assert f"-- {message_id}\n" in catalog, result


@pytest.mark.parametrize("text", [README, WALK], ids=["README", "three-nodes"])
def test_the_paths_that_documents_link_to_exist(text: str) -> None:
    for path in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (TOP / path).exists() or (TOP / "docs" / path).exists(), path


@pytest.mark.parametrize("text", [README, WALK], ids=["README", "three-nodes"])
def test_examples_of_the_hosts_file_have_its_form(tmp_path: Path, text: str) -> None:
    found = re.findall(r"^ *```ini\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    assert found
    first, *later = (re.sub("^ +", "", each, flags=re.MULTILINE) for each in found)
    # Later examples extend a host of the first one, unless they are whole files.
    whole = [each for each in later if each.startswith("[defaults]")]
    parts = [each for each in later if each not in whole]
    path = tmp_path / "hosts"
    for example in ("\n".join([first, *parts]), *whole):
        path.write_text(example)
        assert any(host.name == "node1" for host in hosts.read_hosts(str(path)))


def test_installing_as_documented_installs_what_is_documented(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "-C", TOP, "install-agent", f"DESTDIR={tmp_path}"], check=True)
    for path in ("/usr/local/sbin", "/usr/local/lib/systemd/system"):
        assert f"`{path}`" in WALK
        assert list(Path(f"{tmp_path}{path}").iterdir())
