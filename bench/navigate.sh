#!/usr/bin/env bash
# Navigation Efficiency (arXiv:2410.19198, table 3) by decoding: of DRAWS random
# palettes, and of as many random weights (MORL), how many leave the model not
# worse in any value on held-out prompts, and how often their texts win.
#
#   bench/navigate.sh MODEL DATA PILOT BEFORE 'VALUE VALUE ...' DRAWS [rollout's options]
#
# PILOT and BEFORE are rollouts of MODEL with the same values: several texts for
# each training prompt, and for each validation prompt.  Random palettes: the
# first value at least its 50th to 90th percentile, the second its 50th to 80th,
# the others as now; what cannot be reached is drawn again.  Random weights: s u,
# s uniform in 0 to 6, u uniform on the simplex.  Python reads JSON.
set -euo pipefail
model=$1 data=$2 pilot=$3 before=$4 draws=$6
read -ra names <<< "$5"
shift 6
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
RANDOM=1

decode() {                      # PALETTE: a line of what it gained
    rm -f "$dir/after.h5" "$dir/after.h5.part"
    attune rollout "$model" "$data" "$dir/after.h5" --palette "$1" \
        --split validation --samples 16 --quiet "${@:2}"
    attune compare "$before" "$dir/after.h5" --json | python3 -c '
import json, sys
v = json.load(sys.stdin)["values"].values()
print(int(all(x["gain"][2] >= 0 for x in v)), int(all(x["gain"][0] >= 0 for x in v)),
      sum(x["win_rate"] for x in v) / len(v))'
}

share() {
    awk -v name="$1" '{ a += $1; b += $2; w += $3 }
        END { printf "%-22s %6.0f %% %12.0f %% %12.1f %%\n", name, 100 * a / NR,
              100 * b / NR, 100 * w / NR }'
}

printf '%d draws each\n%-22s %8s %14s %14s\n' "$draws" "weights from" \
    "not worse" "mean gain >= 0" "win rate"
for i in $(seq "$draws"); do
    until { t=(--target "${names[0]}>=p$((50 + RANDOM % 41))"
               --target "${names[1]}>=p$((50 + RANDOM % 31))")
            for n in "${names[@]:2}"; do t+=(--target "$n>=now"); done
            attune palette "$pilot" "${t[@]}" --format json > "$dir/p.json"; }
    do :; done
    decode "$dir/p.json" "$@"
done > "$dir/map"
share "MAP, random palettes" < "$dir/map"
attune palette "$pilot" $(printf -- '--target %s>=now ' "${names[@]}") \
    --format json > "$dir/now.json"
for i in $(seq "$draws"); do
    SEED=$RANDOM python3 - "$dir/now.json" > "$dir/p.json" <<'PY'
import json, os, random, sys
p = json.load(open(sys.argv[1]))
r = random.Random(int(os.environ["SEED"]))
u = [r.expovariate(1) for _ in p["lambda"]]
s = r.uniform(0, 6) / sum(u)
p["lambda"] = [s * x for x in u]
json.dump(p, sys.stdout)
PY
    decode "$dir/p.json" "$@"
done > "$dir/morl"
share "MORL, random weights" < "$dir/morl"
