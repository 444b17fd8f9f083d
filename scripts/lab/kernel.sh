# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the makers of kernels share. A maker, kernels/NAME, runs as `NAME FOLDER` in the toolchain
# root and leaves in that folder:
#
#     vmlinuz    what QEMU boots
#     release    its release, as `uname -r` tells it
#     build/     the tree to build modules against
#     source/    Linux's source

source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/common.sh"

# One line for the person who waits, among the many in the log.
say() {
	echo "== $*"
}

# The sandbox's user may not look into the folder that apt downloads to.
apt() {
	apt-get -o APT::Sandbox::User=root -qq "$@"
}

# Prints `NAME VERSION` of all Linux packages that installing the given ones from a suite would
# bring: how Debian cuts the kernel into packages changes from time to time.
linux_packages() {
	local suite=$1
	shift

	apt -s install --no-install-recommends -t "$suite" "$@" |
		sed -nE 's/^Inst (linux-[^ ]*) (\[[^]]*\] )?\(([^ ]*) .*/\1 \3/p'
}

# Downloads packages, given as lines `NAME VERSION`, to the working directory.
download() {
	local specifications
	mapfile -t specifications < <(sed 's/ /=/')
	apt download "${specifications[@]}"
}
