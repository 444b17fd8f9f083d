# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Makes things, and prints their progress. The makers' output is in a log for each thing.

# The running jobs, each the leader of a process group, and when they began.
declare -A job_of=() begin_of=()
# How many things were started, and how many there are.
begun=0
total=0

title_of() {
	case $1 in
	toolchain* | packaging) echo "$1 root" ;;
	guest | system) echo "$1" ;;
	*) echo "kernel '$1'" ;;
	esac
}

duration_of() {
	case $1 in
	toolchain*) echo "1 to 2 minutes" ;;
	guest) echo "half a minute" ;;
	packaging) echo "1 minute" ;;
	system) echo "2 minutes" ;;
	*) sed -nE 's/^# takes: //p' "$lab/kernels/$1" ;;
	esac
}

begin() {
	begun=$((begun + 1))
	echo "[$begun/$total] making the $(title_of "$1"), which usually takes $(duration_of "$1")"
	begin_of[$1]=$SECONDS
	set -m
	(
		set +m
		make_thing "$1"
	) </dev/null >"$cache/logs/$1" 2>&1 &
	job_of[$1]=$!
	set +m
}

# Kills the jobs that still run when the set-up is interrupted.
stop_jobs() {
	local job
	for job in "${job_of[@]}"; do
		kill -KILL -- "-$job" || true
		wait "$job" || true
	done 2>/dev/null
}

# Reports a maker's failure in a sentence: the maker's own last one, if any.
explain() {
	local log=$cache/logs/$1 sentence
	sentence=$(tail -n 1 "$log" | sed -n 's/^lab: //p')
	[[ -z $sentence ]] || die "$sentence (All output is in $log.)"
	if grep -qE 'Failed to fetch|NewConnectionError|[Cc]ould not (resolve|connect)|[Nn]etwork is unreachable' "$log"; then
		die "the $(title_of "$1") could not be downloaded; check the network (or http_proxy) and try again. All output is in $log."
	fi
	if grep -q 'No space left on device' "$log"; then
		die "the disk is full, so the $(title_of "$1") could not be made; make room and try again. All output is in $log."
	fi
	tail -n 15 "$log" >&2
	die "the $(title_of "$1") could not be made; all output is in $log."
}

finish() {
	local status=0
	wait "${job_of[$1]}" || status=$?
	unset "job_of[$1]"
	[[ ! -t 1 ]] || printf '\r\e[K'
	[[ $status == 0 ]] || explain "$1"
	echo "      the $(title_of "$1") is ready after $((SECONDS - begin_of[$1])) s"
}

# Prints the last line of a log, as much of it as fits on a line.
last_line() {
	tail -n 1 "$cache/logs/$1" | tr -dc '[:print:]' | cut -c "-$((${COLUMNS:-80} - 16))"
}

# Updates one line on a terminal; elsewhere prints a line every 15 s.
show_progress() {
	local seconds=$((SECONDS - begin_of[$1]))
	if [[ -t 1 ]]; then
		printf '\r\e[K      %4d s: %s' "$seconds" "$(last_line "$1")"
	elif ((seconds > 0 && seconds % 15 == 0)); then
		printf '      %4d s: %s\n' "$seconds" "$(last_line "$1")"
	fi
}

# Waits until the running jobs have ended.
finish_all() {
	local thing
	while [[ ${#job_of[@]} != 0 ]]; do
		sleep 1
		for thing in "${!job_of[@]}"; do
			kill -0 "${job_of[$thing]}" 2>/dev/null || finish "$thing"
		done
		for thing in "${!job_of[@]}"; do
			show_progress "$thing"
			break
		done
	done
}

# Makes the given things. A kernel is made in the toolchain root; toolchain and guest do not need each
# other and mostly wait, so they are made at the same time.
make_things() {
	local thing kernels=()
	total=$#
	trap stop_jobs EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP

	for thing in "$@"; do
		case $thing in
		toolchain* | guest | packaging | system) begin "$thing" ;;
		*) kernels+=("$thing") ;;
		esac
	done
	finish_all
	for thing in "${kernels[@]}"; do
		begin "$thing"
		finish_all
	done
}
