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
#
# A line `# takes: TIME` in the maker tells how long that is.

# One line for the person who waits, among the many in the log.
say() {
	echo "== $*"
}

# The user that apt downloads as elsewhere may not look into the cache folder.
apt() {
	apt-get -o APT::Sandbox::User=root -qq "$@"
}

# Prints `NAME VERSION` of all Linux packages that installing the given ones would bring, from the
# suite if one is named: how Debian cuts the kernel into packages changes from time to time.
linux_packages() {
	local suite=$1
	shift

	apt -s install --no-install-recommends ${suite:+-t "$suite"} "$@" |
		sed -nE 's/^Inst (linux-[^ ]*) (\[[^]]*\] )?\(([^ ]*) .*/\1 \3/p'
}

# Downloads packages, given as lines `NAME VERSION`, and unpacks them into a folder.
unpack_packages() {
	local folder=$1 specifications package
	mapfile -t specifications < <(sed 's/ /=/')

	mkdir "$folder"
	cd "$folder"
	apt download "${specifications[@]}"
	for package in *.deb; do
		dpkg-deb --fsys-tarfile "$package" | tar -x
		rm "$package"
	done
}
