# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# mmdebstrap, with Debian 13's archives and without what nobody reads in a root:
#
#     debian FOLDER PACKAGES OPTION...
#
# and the archives of any release:
#
#     archives_of SUITE

archives_of() {
	cat <<-END
		deb http://deb.debian.org/debian $1 main
		deb http://deb.debian.org/debian $1-backports main
		deb http://deb.debian.org/debian-security $1-security main
	END
}

debian() {
	local folder=$1 packages=$2 archives
	shift 2
	mapfile -t archives < <(archives_of trixie)

	mmdebstrap --mode=root --format=directory --include="$packages" \
		--aptopt='Acquire::Languages "none"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		"$@" trixie "$folder" "${archives[@]}"
}
