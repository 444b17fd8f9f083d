# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What all of the lab's scripts share: where things are, messages, and entering a root.

set -euo pipefail

lab=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
checkout=$(dirname "$(dirname "$lab")")
cache=$(realpath -m "${SCOUTFS_FENCE_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/scoutfs-fence}")

# Programs in the root find the same cache, whatever HOME is there.
export SCOUTFS_FENCE_CACHE=$cache

# Things are made here, and renamed into the cache when they are complete.
# shellcheck disable=SC2034 # Not every script makes something.
making=$cache/making

die() {
	echo "lab: $*" >&2
	exit 1
}

# The packages that a file lists, separated by commas.
package_list() {
	sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1" | paste -sd,
}

# Runs a command as root of namespaces of its own: its mounts are not seen outside, and nothing of
# it outlives it or the shell that called. An ordinary user is that root by means of the subordinate
# ids; the kernel forgets what is to happen at the parent's death when a process becomes root, so
# that this comes first.
namespace() {
	local become_root=()

	if [[ $(id -u) != 0 ]]; then
		become_root=(unshare --user --map-auto --map-root-user)
	fi
	"${become_root[@]}" setpriv --pdeathsig KILL \
		unshare --mount --pid --fork --kill-child --propagation private -- "$@"
}

# Runs a command in a root, where the given folder is seen in place of the cache.
enter() {
	local root=$1 folder=$2
	shift 2

	namespace "$lab/inside" "$root" "$checkout" "$folder" "$cache" "$@"
}
