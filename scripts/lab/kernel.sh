# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Functions for the makers of kernels. A maker, kernels/NAME, runs as `NAME FOLDER` in the toolchain
# root and creates in that folder:
#
#     vmlinuz    the image that QEMU boots
#     release    its release, as `uname -r` prints it
#     build/     the tree to build modules against
#     source/    Linux's source
#
# A line `# takes: TIME` in the maker says how long it usually takes.

# Prints a line of progress, which the lab shows; the rest of the output goes to the log.
say() {
	echo "== $*"
}

# apt's sandbox user has no access to the cache folder.
apt() {
	apt-get -o APT::Sandbox::User=root -qq "$@"
}

# Prints `NAME VERSION` of all Linux packages that the given ones depend on, from the suite if one is
# named: Debian splits the kernel into other packages from time to time.
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
