#!/usr/bin/env bash
# Kills a small run at each of its writes, renames, syncs and cuts, then at so many random moments (30 if not given), continues it, and holds
# records, accumulators and summary to those of an unbroken run. Needs Linux and strace.
set -euo pipefail
cd "$(dirname "$0")/.."
moments=${1:-30}
[ -n "${DTTA:-}" ] || cargo build --release --locked -p dtta-cli
dtta=${DTTA:-${CARGO_TARGET_DIR:-target}/release/dtta}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
calls=write,pwrite64,rename,renameat,renameat2,fsync,fdatasync,ftruncate

# An online run of two domains, four batches each, with a checkpoint after every batch.
command=("$dtta" run examples/fashion/online.json --device cpu --resume --out "$work/broken" --checkpoint-every 0
    --set data.stream.samples=8 --set adaptation.batch=2 --set method.draws=2 --set method.steps=1
    --set 'data.stream.domains=[{"kind":"clean"},{"kind":"corrupted","corruption":"fog","severity":3}]')

# Everything but wall times and memory.
same() {
    for file in records.jsonl summary.json; do
        for folder in whole broken; do
            sed -E 's/"(milliseconds|seconds_per_sample|draws_per_second|peak_memory_bytes)": ?[0-9.e+-]+//g' "$work/$folder/$file" >"$work/$folder.stripped"
        done
        cmp "$work/whole.stripped" "$work/broken.stripped"
    done
    cmp "$work/whole/samples.bin" "$work/broken/samples.bin"
}

# Continues until nothing kills it, and compares. A run that never got to its description leaves nothing to continue.
finish() {
    "${command[@]}" 2>"$work/log" || { cat "$work/log"; exit 1; }
    same || { echo "differs: $1"; exit 1; }
    rm -rf "$work/broken"
}

strace -f -qq -e trace=$calls -o "$work/calls" "${command[@]}" 2>/dev/null
mv "$work/broken" "$work/whole"
killed=0
for call in ${calls//,/ }; do
    count=$(grep -cE "[0-9]+ +$call\(" "$work/calls" || true)
    for ((n = 1; n <= count; n++)); do
        strace -f -qq -e trace="$call" -e inject="$call:signal=KILL:when=$n" -o /dev/null "${command[@]}" 2>/dev/null ||
            killed=$((killed + 1))
        finish "$call $n"
    done
done
echo "$killed kills at $calls: equal"

start=$(date +%s%N)
"${command[@]}" 2>/dev/null
lasts=$(($(date +%s%N) - start))
rm -rf "$work/broken"
killed=0
for ((n = 0; n < moments; n++)); do
    "${command[@]}" 2>/dev/null &
    job=$!
    sleep "$(awk -v ns="$lasts" -v seed="$RANDOM" 'BEGIN { srand(seed); print rand() * ns / 1e9 }')"
    kill -KILL $job 2>/dev/null && killed=$((killed + 1))
    wait $job 2>/dev/null || true
    finish "moment $n"
done
echo "$killed kills at random moments: equal"
