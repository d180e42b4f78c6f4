#!/usr/bin/env bash
# Gives damaged bytes to every decoder that takes bytes of plugins, for so many seconds each (60 if not given), with new
# random cases in every round. Stops at the first finding, which proptest has then made small and printed.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
cases=${PROPTEST_CASES:-20000}

# Package, test binary, property.
targets() {
    cat <<'LIST'
dtta-testkit --test=bytes attributes
dtta-testkit --test=bytes components
dtta-testkit --test=bytes declarations_of_values
dtta-testkit --test=bytes descriptors
dtta-testkit --test=bytes errors
dtta-testkit --test=bytes libraries_that_end_too_early
dtta-testkit --test=bytes reports
dtta-testkit --test=bytes saved_accumulators
dtta-plugin --lib native::library::tests::any_bytes_get_an_answer
dtta-plugin --lib native::library::tests::damaged_headers_get_an_answer
dtta-plugin --lib values::tests::any_bytes_are_read_or_refused
LIST
}

cargo test --release --locked -p dtta-testkit -p dtta-plugin --no-run
while read -r package kind name; do
    n=$cases
    # These start a compiler or the system's loader for each case.
    case $name in components | libraries*) n=$((cases / 100)) ;; esac
    begun=$SECONDS rounds=0
    while [ $((SECONDS - begun)) -lt "$seconds" ]; do
        PROPTEST_CASES=$n timeout $((seconds + 600)) \
            cargo test --release --locked --quiet -p "$package" "$kind" -- --exact "$name" >/dev/null
        rounds=$((rounds + 1))
    done
    echo "$name: $((rounds * n)) cases in $((SECONDS - begun)) s, no finding"
done < <(targets)
