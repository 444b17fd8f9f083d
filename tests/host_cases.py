# SPDX-License-Identifier: GPL-2.0-only
"""Cases about the build's inputs and outputs; they need no guest."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import variants

TOP = Path(__file__).resolve().parent.parent

FUNCTIONS = {
    f"scoutfs_fence_{name}"
    for name in (
        "setup",
        "setup_under",
        "start",
        "start_addr",
        "next",
        "wait_next",
        "drained",
        "reason_pending",
        "free",
        "wait_fenced",
        "stop",
        "destroy",
    )
}


class CaseFailed(Exception):
    """A promise was not kept."""


HostCase = Callable[[Path], None]
ALL: dict[str, HostCase] = {}
# The kernel configuration option that a case needs, if any.
OPTIONS: dict[str, str] = {}


def case(function: HostCase) -> HostCase:
    """Registers a function as a case, named after the function with hyphens."""
    assert function.__doc__
    ALL[function.__name__.replace("_", "-")] = function
    return function


def case_with(option: str) -> Callable[[HostCase], HostCase]:
    """Registers a function as a case for kernels configured with this option."""

    def with_option(function: HostCase) -> HostCase:
        OPTIONS[function.__name__.replace("_", "-")] = option
        return case(function)

    return with_option


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def build_of(kdir: Path, change: Callable[[Path], None]) -> tuple[bool, str]:
    """Builds a changed copy of the sources; returns whether that succeeded, and the output."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        variants.copy_sources(copy)
        change(copy)
        return variants.build(kdir, copy)


@case
def exports_the_functions_for_gpl_modules(kdir: Path) -> None:
    """The module exports the header's functions and nothing else, and only to GPL modules."""
    exported = {}
    for line in (TOP / "Module.symvers").read_text().splitlines():
        _, symbol, _, kind, *_ = line.split("\t")
        exported[symbol] = kind
    if exported != dict.fromkeys(FUNCTIONS, "EXPORT_SYMBOL_GPL"):
        raise CaseFailed(f"exported are {exported}")

    module = TOP / "scoutfs_fence.ko"
    listed = set(re.findall(r" __ksymtab_(\w+)$", output_of("nm", module), re.MULTILINE))
    if listed != FUNCTIONS:
        raise CaseFailed(f"nm lists {sorted(listed)}")
    defined = set(re.findall(r" T (scoutfs_fence_\w+)$", output_of("nm", module), re.MULTILINE))
    if missing := sorted(FUNCTIONS - defined):
        raise CaseFailed(f"not defined: {missing}")


@case
def modinfo_says_what_the_module_is(kdir: Path) -> None:
    """modinfo shows the module's licence, version, parameter and description."""
    module = TOP / "scoutfs_fence.ko"
    for field, wanted in (
        ("license", r"GPL"),
        ("version", r"\d+\.\d+.*"),
        ("parm", r"timeout_ms:.*"),
        ("description", r".+"),
    ):
        value = output_of("modinfo", "-F", field, module).strip()
        if not re.fullmatch(wanted, value):
            raise CaseFailed(f"{field} is {value!r}")


@case
def unsafe_is_where_it_belongs(kdir: Path) -> None:
    """The word unsafe occurs only in src/linux/ and src/exports.rs."""
    allowed = [TOP / "src" / "linux", TOP / "src" / "exports.rs"]
    for path in sorted((TOP / "src").rglob("*.rs")):
        if any(path == place or place in path.parents for place in allowed):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.partition("//")[0]
            if re.search(r"\bunsafe\b", code) or re.search(r"(allow|expect)\(unsafe_code", code):
                raise CaseFailed(f"{path.relative_to(TOP)}:{number}: {line.strip()}")


@case
def unsafe_elsewhere_does_not_compile(kdir: Path) -> None:
    """An unsafe block in any other file breaks the build."""

    def change(copy: Path) -> None:
        for name in ("mounts", "mount", "request", "attrs", "notify"):
            path = copy / "src" / f"{name}.rs"
            block = f"fn {name}_is_unsafe() {{ unsafe {{ core::hint::unreachable_unchecked() }} }}"
            path.write_text(f"{path.read_text()}\n{block}\n")

    built, output = build_of(kdir, change)
    if built:
        raise CaseFailed("the build worked")
    for name in ("mounts", "mount", "request", "attrs", "notify"):
        if not re.search(rf"usage of an `unsafe` block\n.*src/{name}\.rs:", output):
            raise CaseFailed(f"nothing about {name}.rs in: {output[-2000:]}")


@case
def every_planted_fault_has_its_place(kdir: Path) -> None:
    """The text that each instrument replaces is in the sources once."""
    # tests/run has made its folder known.
    import instruments

    for instrument in instruments.ALL.values():
        if instrument.change:
            with tempfile.TemporaryDirectory() as folder:
                variants.copy_sources(Path(folder))
                instrument.change.apply(Path(folder))


# What C would take for the work item is a pointer to one.
WORK_BEHIND_A_POINTER = """
struct Wrong {
    work: Arc<DelayedWork<Wrong, 0>>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<0> for Wrong { self.work }
}

impl DelayedWorkItem<0> for Wrong {
    fn run(_: Arc<Self>) {}
}
"""


@case
def unsafe_offsets_do_not_compile(kdir: Path) -> None:
    """The macro for delayed work refuses a field that only points to a work item."""

    def change(copy: Path) -> None:
        path = copy / "src" / "mount.rs"
        path.write_text(path.read_text() + WORK_BEHIND_A_POINTER)

    built, output = build_of(kdir, change)
    if built or "mismatched types" not in output:
        raise CaseFailed(f"{'built' if built else 'not built'}: {output[-2000:]}")


@case
def a_header_that_differs_does_not_compile(kdir: Path) -> None:
    """For every function, a signature in include/fence.h unlike the module's breaks the build."""
    changes = {
        "int scoutfs_fence_setup(": "long scoutfs_fence_setup(",
        "sb, struct kobject *parent)": "sb, struct super_block *parent)",
        "start(struct super_block *sb, u64 rid": "start(struct super_block *sb, u32 rid",
        "const struct sockaddr_storage *addr": "const struct super_block *addr",
        "u64 *rid, int *reason": "u64 *rid, unsigned int *reason",
        "long scoutfs_fence_wait_next(": "int scoutfs_fence_wait_next(",
        "drained(struct super_block *sb, bool *": "drained(struct super_block *sb, int *",
        "reason_pending(struct super_block *sb, int": "reason_pending(struct super_block *sb, long",
        "free(struct super_block *sb, u64 rid": "free(struct super_block *sb, u32 rid",
        "wait_fenced(struct super_block *sb, long": "wait_fenced(struct super_block *sb, int",
        "void scoutfs_fence_stop(": "int scoutfs_fence_stop(",
        "destroy(struct super_block *sb": "destroy(const struct super_block *sb",
    }
    assert len(changes) == len(FUNCTIONS)

    def change(copy: Path) -> None:
        header = copy / "include" / "fence.h"
        text = header.read_text()
        for old, new in changes.items():
            if text.count(old) != 1:
                raise CaseFailed(f"'{old}' is not in the header once")
            text = text.replace(old, new)
        header.write_text(text)

    built, output = build_of(kdir, change)
    if built:
        raise CaseFailed("the build worked")
    unnoticed = [name for name in sorted(FUNCTIONS) if not re.search(rf"\b{name}\b", output)]
    if unnoticed:
        raise CaseFailed(f"nothing about {', '.join(unnoticed)} in: {output[-2000:]}")


# Includes the header before anything else.
FIRST_INCLUDE = """
#include "fence.h"

int use_it(struct super_block *sb, __be32 ipv4, const struct sockaddr_storage *addr);
int use_it(struct super_block *sb, __be32 ipv4, const struct sockaddr_storage *addr)
{
	bool error;

	scoutfs_fence_start(sb, 1, ipv4, SCOUTFS_FENCE_CLIENT_RECOVERY);
	scoutfs_fence_start_addr(sb, 2, addr, SCOUTFS_FENCE_CLIENT_RECONNECT);
	return scoutfs_fence_drained(sb, &error) ? scoutfs_fence_setup(sb) : 0;
}
"""
# The kernel's own headers use a keyword unknown to Debian's sparse.
SPARSE = "-D__CHECK_ENDIAN__ -D__typeof_unqual__=__typeof__"


def check_first_include(kdir: Path, *options: str) -> None:
    """Compiles files that include the header first, with and without SCOUTFS_FENCE_PARENT."""
    with tempfile.TemporaryDirectory() as folder:
        source = "// SPDX-License-Identifier: GPL-2.0-only" + FIRST_INCLUDE
        for name in ("plain", "under"):
            Path(folder, f"{name}.c").write_text(source)
        Path(folder, "Kbuild").write_text(
            "obj-m := plain.o under.o\n"
            f"ccflags-y := -I{TOP / 'include'}\n"
            "CFLAGS_under.o := -DSCOUTFS_FENCE_PARENT=some_directory\n"
        )
        build = subprocess.run(
            ["make", "-C", kdir, f"M={folder}", *options, "plain.o", "under.o"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        objects = [Path(folder, f"{name}.o") for name in ("plain", "under")]
        if build.returncode or re.search("warning|error", build.stdout):
            raise CaseFailed(build.stdout[-2000:])
        # The define replaces scoutfs_fence_setup by another function.
        called = [re.findall(r" U (scoutfs_fence_setup\w*)", output_of("nm", o)) for o in objects]
        if called != [["scoutfs_fence_setup"], ["scoutfs_fence_setup_under"]]:
            raise CaseFailed(f"called are {called}")
        if "C=2" in options and build.stdout.count(" CHECK ") != len(objects):
            raise CaseFailed(f"sparse has not run:\n{build.stdout[-2000:]}")


@case
def the_header_may_be_the_first_include(kdir: Path) -> None:
    """Included first, the header compiles without warnings, with and without the define."""
    # The kernel's own headers cause these warnings.
    silent = "-Wno-unused-parameter -Wno-sign-compare -Wno-frame-address -Wno-type-limits"
    check_first_include(kdir, f"KCFLAGS=-Wall -Wextra {silent} -Werror")


@case
def the_header_is_clean_under_sparse(kdir: Path) -> None:
    """Sparse finds nothing in the header with __CHECK_ENDIAN__, with and without the define."""
    check_first_include(kdir, "C=2", f"CF={SPARSE}")


# Stands in for scoutfs: its tree, its Makefile's config option, and one call.
SCOUTFS = """// SPDX-License-Identifier: GPL-2.0-only
#include "fence.h"

#include <linux/fs.h>
#include <linux/module.h>

struct kobject *scoutfs_sysfs_sb_dir(struct super_block *sb)
{
	return sb->s_fs_info;
}

int scoutfs_setup(struct super_block *sb);
int scoutfs_setup(struct super_block *sb)
{
	return scoutfs_fence_setup(sb);
}

MODULE_DESCRIPTION("Stands in for scoutfs");
MODULE_LICENSE("GPL");
"""


@case
def the_documented_build_of_scoutfs_works(kdir: Path) -> None:
    """The commands in docs/integrating.md build scoutfs's module against this module's symbols."""
    text = (TOP / "docs/integrating.md").read_text().replace("/path/to/scoutfs-fence", str(TOP))
    [flags] = re.findall(r"```make\n(.*?)```", text, re.DOTALL)
    command = re.findall(r"```sh\n(make -C.*?)```", text, re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kmod/src")
        source.mkdir(parents=True)
        (source / "Makefile").write_text(f"obj-$(CONFIG_SCOUTFS_FS) := scoutfs.o\n{flags}")
        (source / "scoutfs.c").write_text(SCOUTFS)
        made = subprocess.run(
            ["env", "-u", "MAKEFLAGS", f"KDIR={kdir}", "sh", "-ec", command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        module = source / "scoutfs.ko"
        if made.returncode or not module.exists():
            raise CaseFailed(f"no module was built: {made.stdout[-2000:]}")
        depends = output_of("modinfo", "-F", "depends", module).strip()
        called = re.findall(r" U (scoutfs_fence_\w+)", output_of("nm", module))
    if depends != "scoutfs_fence" or called != ["scoutfs_fence_setup_under"]:
        raise CaseFailed(f"it depends on {depends!r} and calls {called}")


@case
def the_archive_of_the_sources_needs_no_git(kdir: Path) -> None:
    """`make dist` packs exactly the tree's files; `make clean` works in the archive without git."""
    with tempfile.TemporaryDirectory() as folder:
        # Unpacked in another project's repository, which tracks every file.
        archive = Path(folder) / "sources.tar.xz"
        output_of(TOP / "scripts/tree", "archive", archive)
        output_of("tar", "-x", "-C", folder, "-f", archive)
        top = Path(folder) / "sources"
        output_of("git", "-C", folder, "init", "--quiet")
        left = ["src/exports.o", "scoutfs_fence.ko", "tests/logs/a", "bench/b", "dist/c"]
        for name in left:
            (top / name).parent.mkdir(exist_ok=True)
            (top / name).touch()
        output_of("git", "-C", folder, "add", "--all", "--force")

        listed = output_of(top / "scripts/tree", "files")
        if listed != output_of(TOP / "scripts/tree", "files"):
            raise CaseFailed("the archive holds other files than the tree")
        output_of("make", "--silent", "-C", top, "clean")
        if still := [name for name in left if (top / name).exists()]:
            raise CaseFailed(f"still there: {still}")
        if lost := [name for name in listed.splitlines() if not os.path.lexists(top / name)]:
            raise CaseFailed(f"make clean removed {lost}")


@case
def nothing_depends_on_a_kernels_version(kdir: Path) -> None:
    """Kernel differences are probed; no file has a condition on a kernel version."""
    # Split so that this file does not match.
    words = ("linux_" + r"[0-9]", "LINUX_VERSION" + "_CODE", "KERNEL_VERSION" + r"\(")
    found = []
    for name in output_of(TOP / "scripts/tree", "files").splitlines():
        if not (TOP / name).is_file():
            continue
        for number, line in enumerate((TOP / name).read_text(errors="replace").splitlines(), 1):
            if re.search("|".join(words), line):
                found.append(f"{name}:{number}: {line}")
    if found:
        raise CaseFailed("\n".join(found))


@case
def the_lab_takes_the_source_of_the_image(kdir: Path) -> None:
    """If Debian offers a newer source than the signed image, the lab takes the image's version."""
    offered = """
        linux-image-6.1.0-56-amd64 6.1.192-2
        linux-headers-6.1.0-56-amd64 6.1.192-2
        linux-headers-6.1.0-56-common 6.1.192-2
        linux-kbuild-6.1 6.1.192-2
        linux-source-6.1 6.1.192-3
        linux-base 4.9
    """
    script = """
        lab=scripts/lab
        source "$lab/kernel.sh"
        source "$lab/debian-kernel.sh"
        linux_packages() { sed -E "s/^ +//; /^$/d" <<<"$offered"; }
        choose_packages "" amd64
    """
    chosen = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=TOP,
        env={**os.environ, "offered": offered},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.splitlines()
    versions = dict(line.split(" ") for line in chosen)
    if "linux-base" in versions or set(versions.values()) != {"6.1.192-2"}:
        raise CaseFailed(f"the lab takes {chosen}")
