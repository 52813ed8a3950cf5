#!/bin/sh
# Fails if types_gen.go does not match the schemas, or if the generator printed a warning or
# omitted a definition. The generator succeeds in spite of warnings.
set -eu
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp types_gen.go "$dir/before.go"
GOWORK=off go generate ./... 2>"$dir/log" || { cat "$dir/log" >&2; exit 1; }
if grep Warning "$dir/log" >&2; then exit 1; fi
if ! cmp -s "$dir/before.go" types_gen.go; then
	echo "types_gen.go was not up to date with schema/; it is now" >&2
	exit 1
fi
go test -run '^TestGenerated' .
