# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# mmdebstrap, with Debian 13's archives and without what nobody reads in a root:
#
#     debian FOLDER PACKAGES OPTION...

debian() {
	local folder=$1 packages=$2
	shift 2

	mmdebstrap --mode=root --format=directory --include="$packages" \
		--aptopt='Acquire::Languages "none"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		"$@" trixie "$folder" \
		"deb http://deb.debian.org/debian trixie main" \
		"deb http://deb.debian.org/debian trixie-backports main" \
		"deb http://deb.debian.org/debian-security trixie-security main"
}
