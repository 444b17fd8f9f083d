# SPDX-License-Identifier: GPL-2.0-only
"""Permissions: only the host's root can write."""

import json
import os
import subprocess
import sys
from errno import EACCES, ENOENT, EPERM
from pathlib import Path

import kernel
from case import Case, case
from fence import Finished, Request, equal, true

INTRUDER = Path(__file__).resolve().parents[1] / "intruder.py"
OWN_SYSFS = Path("/tmp/own-sysfs")

AS_USER = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
CONTAINER = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--fork")


def tried_by(request: Request, *how: str) -> dict[str, int]:
    """Runs the intruder through a command that sets his privileges; returns his results."""
    OWN_SYSFS.mkdir(exist_ok=True)
    own = [str(OWN_SYSFS)] if "unshare" in how else []
    # -B, because root owns the compiled files.
    command = [*how, sys.executable, "-B", str(INTRUDER), str(request.path), *own]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, int] = json.loads(answer.stdout)
    return found


def was_refused(request: Request, found: dict[str, int], *allowed: str) -> None:
    """Checks that only reading and what is allowed worked, and that nothing has changed."""
    worked = {name for name, number in found.items() if number not in (EACCES, EPERM)}
    equal(worked - {"the user id"}, {"read the request", *allowed}, "what worked")
    equal(request.read("fenced") + request.read("error"), "0\n0\n", "the request")
    equal({(request.path / file).stat().st_uid for file in Request.FILES}, {0}, "the owner")
    equal((request.path / "fenced").stat().st_mode & 0o777, 0o644, "the mode")
    equal(kernel.TIMEOUT_MS.read_text(), f"{kernel.USUAL_TIMEOUT_MS}\n", "timeout_ms")
    true(not kernel.is_loaded(kernel.LEADER_FILESYSTEM), "no module was loaded")


@case
def a_user_changes_nothing(case: Case) -> None:
    """A user of the host can read a request, but change neither it, timeout_ms nor the module."""
    mount = case.mount()
    request = mount.started(0xAA)
    found = tried_by(request, *AS_USER)
    equal(found["the user id"], 1000)
    was_refused(request, found)
    equal(mount.next(), -ENOENT)


@case
def root_of_a_users_container_changes_nothing(case: Case) -> None:
    """Root in a user's own namespaces can mount a sysfs and read it, but write nothing."""
    mount = case.mount()
    request = mount.started(0xAA)
    found = tried_by(request, *AS_USER, *CONTAINER)
    equal(found["the user id"], 0)
    was_refused(request, found, "mount a sysfs", "read its own sysfs")
    equal(mount.next(), -ENOENT)


@case
def root_in_the_hosts_user_id_is_root(case: Case) -> None:
    """The host's root may write, even in a container that uses the host's user ids."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    request = mount.started(0xAA)
    found = tried_by(request, *CONTAINER)
    equal((found["write fenced"], found["write error"]), (0, 0))
    equal(found["load a module"], EPERM, "what takes more than the user id")
    equal(mount.next(), Finished(0xAA, error=True))


@case
def an_open_file_may_be_handed_on(case: Case) -> None:
    """A user given a file opened by root can write to it, and thus to that request only."""
    mount = case.mount()
    with (mount.started(0xAA).path / "fenced").open("wb", buffering=0) as file:
        says_fenced = [*AS_USER, "echo", "1"]
        equal(subprocess.run(says_fenced, stdout=file, check=False).returncode, 0)
        equal(mount.next(), Finished(0xAA))
        equal(mount.free(0xAA), 0)
        request = mount.started(0xAA)
        too_late = subprocess.run(says_fenced, stdout=file, stderr=subprocess.DEVNULL, check=False)
        true(too_late.returncode != 0, "the file's request is gone")
        equal(request.read("fenced"), "0\n")


@case
def writing_takes_no_capability(case: Case) -> None:
    """Root needs no capabilities to write, as it owns the files; so the agent needs none."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    request = mount.started(0xAA)
    found = tried_by(request, *WITHOUT_CAPABILITIES)
    equal((found["write fenced"], found["write error"]), (0, 0))
    equal(found["unload a module"], EPERM, "what takes more than that")


@case
def the_directories_are_roots(case: Case) -> None:
    """Everyone may enter the directories down to a request's; nobody may create files in them."""
    mount = case.mount()
    request = mount.started(0xAA)
    for path in (kernel.FENCE_SYSFS, mount.directory, mount.directory / "fence", request.path):
        status = path.stat()
        equal((status.st_uid, status.st_gid, status.st_mode & 0o777), (0, 0, 0o755), str(path))
    for flags in (os.O_CREAT | os.O_WRONLY, os.O_TMPFILE | os.O_WRONLY):
        number = 0
        try:
            os.close(os.open(request.path / "new" if flags & os.O_CREAT else request.path, flags))
        except OSError as error:
            number = error.errno or 255
        true(bool(number), f"nothing can be made with flags {flags:#x}")
