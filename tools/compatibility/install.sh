#!/bin/sh
# Installs clients, each into its own environment under $1: those named by the other arguments, or all of them.
# requirements/NAME.txt (or NAME/package-lock.json) is the whole environment, so that nothing is resolved, and torch is
# only ever the CPU's. What is there already is left alone until its list changes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
mkdir -p "$1"
clients=$(cd "$1" && pwd)
shift
test $# -gt 0 || set -- $(cd "$here/requirements" && ls | sed 's/\.txt$//')

for name in "$@"; do
    list="$here/requirements/$name.txt"
    test -d "$here/requirements/$name" && list="$here/requirements/$name/package-lock.json"
    cmp -s "$list" "$clients/$name/installed" && continue
    rm -rf "${clients:?}/$name"
    if test -d "$here/requirements/$name"; then
        cp -R "$here/requirements/$name" "$clients/$name"
        (cd "$clients/$name" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    else
        "$python" -m venv --without-pip "$clients/$name"
        # Compiling everything takes longer than running the little that is imported.
        "$python" -m pip --python "$clients/$name/bin/python" install -qq --disable-pip-version-check \
            --no-compile --no-deps -r "$list"
    fi
    cp "$list" "$clients/$name/installed"
done
