#!/usr/bin/env bash
# The quickstart's alignment from several seeds, each measured as the quickstart
# measures its one:
#   ./quickstart && bench/align_seeds.sh [SEEDS]
# Prints each value's mean over the seeds, how far they scatter, and how many
# runs meet each target within their interval; writes
# bench/results/align-seeds.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/build/tools:$PATH"
seeds=${1:-7}
out=bench/results/align-seeds.jsonl
values=(--value positive=reward:runs/positive --value diversity
        --value fluency=perplexity:examples/quickstart/model.h5 --value length)
: >"$out"
for ((seed = 0; seed < seeds; seed++)); do
    rm -rf runs/seed
    attune train examples/quickstart/align.yaml seed=$seed run=runs/seed \
        --quiet
    attune rollout runs/seed runs/reviews.h5 runs/seed.h5 --prompt-tokens 3 \
        --max-tokens 32 --split validation --samples 4 "${values[@]}" --quiet
    attune compare runs/before.h5 runs/seed.h5 --palette runs/palette.json |
        awk -v seed=$seed '$1 ~ /^(positive|diversity|fluency|length)$/ {
            met = /missed/ ? 0 : 1
            printf "{\"seed\": %d, \"value\": \"%s\", \"after\": %s, \"met\": %d}\n",
                   seed, $1, $3, met }' | tee -a "$out"
done
rm -rf runs/seed runs/seed.h5*
awk -F'[:,}] *' '{ v = $4; n[v]++; s[v] += $6; q[v] += $6 * $6; m[v] += $8 }
    END { for (v in n) {
        name = v; gsub(/"/, "", name)
        mean = s[v] / n[v]; sd = sqrt((q[v] - n[v] * mean * mean) / (n[v] - 1))
        printf "%-12s %8.4f, from seed to seed +- %.4f; met by %d of %d\n",
               name, mean, sd, m[v], n[v] } }' "$out"
