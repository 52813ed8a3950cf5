#!/bin/sh
# Fails if types_gen.go is not what the schemas say, if the generator warned (it then
# ends with success all the same) or if it left a definition out.
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
