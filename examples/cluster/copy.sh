#!/usr/bin/env bash
# Copies the folder of a finished run or shard, its `unit.json` last: whoever finds that file finds the others, and `dtta merge` holds them to
# its digests. Writes whole files and renames nothing, so that the target may be a mounted bucket.
#
#   copy.sh FROM TO
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 FROM TO" >&2; exit 2; }
[ -e "$1/unit.json" ] || { echo "$1 has no unit.json: it is not finished" >&2; exit 2; }
[ ! -e "$2/unit.json" ] || { echo "$2 is there already"; exit 0; }
mkdir -p "$2"
(cd "$1" && find . -type f ! -name '.*' ! -name unit.json) | while IFS= read -r file; do
    mkdir -p "$2/$(dirname "$file")"
    cp "$1/$file" "$2/$file"
done
cp "$1/unit.json" "$2/unit.json"
