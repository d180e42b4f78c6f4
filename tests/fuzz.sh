#!/usr/bin/env bash
# Gives damaged bytes and documents to everything that reads them (plugins, experiments, models, weights, data), for so many
# seconds each (60 if not given), with new random cases in every round. Stops at the first finding, which proptest has then made small and printed.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
cases=${PROPTEST_CASES:-20000}

# Test binary, property.
targets() {
    cat <<'LIST'
--test=bytes attributes
--test=bytes components
--test=bytes declarations_of_values
--test=bytes descriptors
--test=bytes errors
--test=bytes libraries_that_end_too_early
--test=bytes reports
--test=bytes saved_accumulators
--lib checkpoint::tests::fuzz::damaged_checkpoints_get_an_answer
--lib checkpoint::tests::fuzz::damaged_indexes_get_an_answer
--lib checkpoint::tests::fuzz::damaged_pickles_get_an_answer
--lib native::library::tests::any_bytes_get_an_answer
--lib native::library::tests::damaged_headers_get_an_answer
--lib values::tests::any_bytes_are_read_or_refused
--test=fuzz dense_experiments
--test=fuzz documents_of_any_bytes
--test=fuzz experiments
--test=fuzz images
--test=fuzz model_files
--test=fuzz packed_datasets
--test=fuzz weight_files
--test=fuzz training_configurations
LIST
}

cargo test --release --locked --workspace --test=bytes --test=fuzz --lib --no-run
while read -r kind name; do
    n=$cases
    # These start a compiler or the system's loader for each case.
    case $name in components | libraries* | *experiments) n=$((cases / 100)) ;; esac
    begun=$SECONDS rounds=0
    while [ $((SECONDS - begun)) -lt "$seconds" ]; do
        found=$(PROPTEST_CASES=$n timeout $((seconds + 600)) \
            cargo test --release --locked --quiet --workspace "$kind" -- --exact "$name") || { echo "$found"; exit 1; }
        # A property that is not there finds nothing.
        grep -q "1 passed" <<<"$found" || { echo "no test is named $name"; exit 1; }
        rounds=$((rounds + 1))
    done
    echo "$name: $((rounds * n)) cases in $((SECONDS - begun)) s, no finding"
done < <(targets)
