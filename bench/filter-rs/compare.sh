#!/bin/sh
# Runs the benchmarks of package filter and of the reference implementation in turn, ROUNDS (5)
# times. For each case, prints the lowest figures and the ratios. The reference implementation
# takes decoded filters and documents; its -from-text cases include the decoding, which package
# filter always does. In both, -insert-held changes a clone of an index, and -insert-remove changes
# an index in place.
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export CARGO_TARGET_DIR="$PWD/.cache/filter-rs"
(cd bench/filter-rs && cargo build --release --quiet)
"${GO:-go}" test -c -o "$out/filter.test" ./internal/filter
round=0
while [ "$round" -lt "${ROUNDS:-5}" ]; do
	round=$((round + 1))
	"$CARGO_TARGET_DIR/release/filter-rs" | awk '{print "rust", $1, $2, $3}' >>"$out/all"
	"$out/filter.test" -test.run NONE -test.bench . -test.benchtime 8ms -test.count 9 |
		awk '/^Benchmark/ {sub(/^Benchmark/, "", $1); sub(/-[0-9]+$/, "", $1); print "go", tolower($1), $3}' | sort -k2,2 -k3,3n |
		awk 'function flush() {if (n) print "go", name, all[1], all[int((n + 1) / 2)]} $2 != name {flush(); n = 0; name = $2} {all[++n] = $3} END {flush()}' >>"$out/all"
done
# For each case, print the lowest median of the rounds and the lowest batch overall.
awk '{key = $1 " " $2; if (!(key in median) || $4 < median[key]) median[key] = $4
	if (!(key in least) || $3 < least[key]) least[key] = $3; if ($1 == "rust") names[$2] = 1}
	END {printf "%-28s %12s %12s %7s %12s %12s %7s\n", "ns", "Go median", "Rust median", "ratio", "Go least", "Rust least", "ratio"
	for (k in names) {r = "rust " k; g = "go " k; sub(/-from-text$/, "", g)
		if (g in median) printf "%-28s %12.1f %12.1f %7.2f %12.1f %12.1f %7.2f\n", k, median[g], median[r], median[g] / median[r], least[g], least[r], least[g] / least[r] | "sort -V"}
	}' "$out/all"
