#!/bin/sh
# Runs each fuzz target for the duration in the first argument.
set -eu
cd "$(dirname "$0")/../.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
grep -rn --include='*_test.go' -oE '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|/[^/]*_test\.go:[0-9]+:func | |' | sort -u |
while read -r dir name; do
	echo "$dir $name"
	# By default, each interesting input is minimized for up to a minute. The first few would
	# take all the time.
	if (cd "$dir" && "${GO:-go}" test -run '^$' -fuzz "^$name\$" -fuzztime "$1" -fuzzminimizetime 10x . >"$log" 2>&1); then
		tail -n 1 "$log"
		continue
	fi
	# A target sometimes fails with this message, and without an input, when its time is up.
	if grep -qx '    context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic:' "$log"; then
		echo "ended by its time"
		continue
	fi
	cat "$log" >&2
	exit 1
done
