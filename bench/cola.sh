#!/usr/bin/env bash
# Auxiliary models of ColA beside LoRA and full fine-tuning at equal steps:
#   bench/cola.sh ATTUNE MODEL.h5 DATA.h5
# prints the loss on held-out documents after 150 steps of 1024 tokens, for three
# learning rates each.
set -euo pipefail
attune=$1 model=$2 data=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/cola.yaml" <<TXT
seed: 1
threads: 1
model: {path: $model}
data: {path: $data}
batch: {rows: 4, length: 256}
objective: lm
optim: {weight_decay: 5e-4}
schedule: {name: linear, warmup: 8, min_ratio: 0}
train: {steps: 150}
eval: {every: 150, batches: 24}
checkpoint: {every: 0}
run: $dir/run
TXT
one() {
    local name=$1 lr=$2
    shift 2
    rm -rf "$dir/run"
    "$attune" train "$dir/cola.yaml" optim.lr="$lr" "$@" --quiet > /dev/null
    sed -n "s/.*\"split\":\"eval\".*\"loss\":\([0-9.e-]*\),\"loss_se\":\([0-9.e-]*\).*/{\"method\": \"$name\", \"lr\": $lr, \"loss\": \1, \"se\": \2}/p" \
        "$dir/run/metrics.jsonl"
}
qv='targets: "(q|v)_proj"' all='targets: proj' away='offload={engine: local}'
for lr in 1e-3 3e-3 1e-2; do
    one 'full fine-tuning' $lr
    one 'LoRA r=8, q v' $lr "lora={rank: 8, alpha: 8, $qv}"
    one 'ColA low rank r=8, q v' $lr "lora={rank: 8, alpha: 8, $qv}" "$away"
    one 'ColA linear, q v' $lr "linear={use: 1, $qv}" "$away"
    one 'ColA MLP, q v' $lr "mlp={width: 256, inner: 128, $qv}" "$away"
    one 'LoRA r=8, all layers' $lr "lora={rank: 8, alpha: 8, $all}"
    one 'ColA low rank r=8, all layers' $lr "lora={rank: 8, alpha: 8, $all}" \
        "$away"
    one 'ColA linear, all layers' $lr "linear={use: 1, $all}" "$away"
    one 'ColA MLP, all layers' $lr "mlp={width: 256, inner: 128, $all}" "$away"
done
