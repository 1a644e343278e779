#!/usr/bin/env bash
# attune and PyTorch doing the same step, in turn, on this machine:
#   bench/side_by_side.sh PYTHON [BUILD] [ROUNDS]
# PYTHON has torch, transformers and peft.  Prints the medians, their ratio and
# the ratio of peak memory; writes bench/results/cpu-train.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?a python with torch, transformers and peft}
build=${2:-build} rounds=${3:-3}
out=bench/results/cpu-train.jsonl
mkdir -p bench/results
: >"$out"
for model in llama15m gpt2; do
    for method in full lora; do
        for ((i = 0; i < rounds; i++)); do
            "$build"/bench/bench-train $model $method 8 cpu --json /tmp/a.json \
                >/dev/null
            "$python" bench/peers/train.py $model $method 8 2>/dev/null \
                >/tmp/b.json
            paste -d' ' /tmp/a.json /tmp/b.json >>"$out"
        done
    done
done
"$python" - "$out" <<'PY'
import json, statistics, sys
rows = {}
for line in open(sys.argv[1]):
    d = json.JSONDecoder()
    a, end = d.raw_decode(line)
    b, _ = d.raw_decode(line[end:].strip())
    rows.setdefault((a["model"], a["method"]), []).append((a, b))
print("%-9s %-5s %9s %9s %6s %7s %7s" % ("model", "train", "attune", "torch",
      "ratio", "limit", "memory"))
for (model, method), pairs in rows.items():
    med = lambda f: statistics.median(f(a, b) for a, b in pairs)
    print("%-9s %-5s %9.0f %9.0f %6.2f %6.1f%% %7.2f" % (
        model, method, med(lambda a, b: a["tokens_per_s"]),
        med(lambda a, b: b["tokens_per_s"]),
        med(lambda a, b: a["tokens_per_s"] / b["tokens_per_s"]),
        100 * med(lambda a, b: a["share"]),
        med(lambda a, b: a["peak_bytes"] / b["peak_bytes"])))
print("tokens/s; limit: share of what the live FMA probe allows")
PY
