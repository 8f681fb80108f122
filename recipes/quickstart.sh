#!/usr/bin/env bash
# From nothing to a captioner that corrects itself: scores before, SC training, scores after, report.
# Usage: [SEED=0] [OUTPUT=outputs/quickstart] [ACCELERATE_CONFIG=...] recipes/quickstart.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SEED=${SEED:-0}
OUTPUT=${OUTPUT:-outputs/quickstart}
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-recipes/accelerate/one_process.yaml}
# Nothing here needs the Hub; offline mode keeps a machine without it from waiting for time-outs.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

SECONDS=0
accelerate launch --config_file "$ACCELERATE_CONFIG" recipes/sc.py --config recipes/scenes/sc.yaml \
    --seed "$SEED" --output_dir "$OUTPUT/model"
python recipes/quickstart.py --model "$OUTPUT/model" --output_dir "$OUTPUT" --seed "$SEED" --training_seconds "$SECONDS"
