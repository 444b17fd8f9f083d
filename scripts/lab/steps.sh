# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Makes things one after the other, with a sign of progress for the person who waits. What the
# makers print goes to a log for each thing.
#
# The toolchain and the guest do not need each other, so they are made at the same time.

declare -A job_of=() begin_of=()
total=0
started=0

# Nothing goes on behind the back of a person who interrupted the set-up.
stop_jobs() {
	local job
	for job in "${job_of[@]}"; do
		kill -KILL -- "-$job" 2>/dev/null || true
	done
	job_of=()
}

start() {
	local log=$cache/logs/$1
	started=$((started + 1))
	echo "[$started/$total] making the $(title_of "$1") (takes about $(duration_of "$1"))"
	set -m
	(set +m; make_thing "$1") </dev/null >"$log" 2>&1 &
	job_of[$1]=$!
	begin_of[$1]=$SECONDS
	set +m
}

title_of() {
	case $1 in
	toolchain) echo "toolchain root" ;;
	guest) echo "guest" ;;
	*) echo "kernel $1" ;;
	esac
}

# The last word of a log, to see that something happens.
last_line() {
	local width=$((${COLUMNS:-80} - 14))
	tail -n 1 "$1" 2>/dev/null | tr -dc '[:print:]' | cut -c "-$width"
}

# On a terminal a line that moves, elsewhere a line now and then.
show_progress() {
	local log=$cache/logs/$1 seconds=$2
	if [[ -t 1 ]]; then
		printf '\r\e[K      %4d s  %s' "$seconds" "$(last_line "$log")"
	elif ((seconds > 0 && seconds % 15 == 0)); then
		printf '      %4d s  %s\n' "$seconds" "$(last_line "$log")"
	fi
}

# Turns a maker's failure into a sentence.
explain() {
	local log=$cache/logs/$1 sentence
	sentence=$(tail -n 1 "$log" | sed -n 's/^lab: //p')
	[[ -z $sentence ]] || die "$sentence (All output is in $log.)"
	tail -n 15 "$log" >&2
	if grep -qE 'Temporary failure resolving|Could not (resolve|connect)|Unable to connect|Failed to fetch|Connection (refused|timed out)|NewConnectionError|network is unreachable' "$log"; then
		die "the $(title_of "$1") could not be downloaded; check the network (or http_proxy) and run the same command again. All output is in $log."
	fi
	die "making the $(title_of "$1") failed; all output is in $log."
}

finish() {
	local thing=$1 job=${job_of[$1]} status=0
	while kill -0 "$job" 2>/dev/null; do
		show_progress "$thing" $((SECONDS - begin_of[$thing]))
		sleep 1
	done
	[[ ! -t 1 ]] || printf '\r\e[K'
	wait "$job" || status=$?
	unset "job_of[$thing]"
	[[ $status == 0 ]] || explain "$thing"
	echo "      $(title_of "$thing") done after $((SECONDS - begin_of[$thing])) s"
}

make_things() {
	local thing kernels=()
	total=$#
	trap stop_jobs EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP

	for thing in "$@"; do
		case $thing in
		toolchain | guest) start "$thing" ;;
		*) kernels+=("$thing") ;;
		esac
	done
	for thing in toolchain guest; do
		[[ ! -v "job_of[$thing]" ]] || finish "$thing"
	done
	for thing in "${kernels[@]}"; do
		start "$thing"
		finish "$thing"
	done
}
