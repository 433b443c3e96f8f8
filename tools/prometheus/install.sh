#!/bin/sh
# Puts Debian's prometheus and promtool under $1/bin, without root: the package is unpacked, not installed. Programs of
# these names on the PATH are taken instead. What is there already is left alone until this file changes.
set -eu
script=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
mkdir -p "$1/bin"
target=$(cd "$1" && pwd)
cmp -s "$script" "$target/installed" && exit
rm -f "$target/bin/prometheus" "$target/bin/promtool"

if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    ln -s "$(command -v prometheus)" "$(command -v promtool)" "$target/bin/"
elif command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    if ! apt-get -qq download prometheus 2>/dev/null; then
        # The system's package lists are absent or old, and only root may update those.
        mkdir -p lists/partial archives/partial
        set -- -qq -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User="$(id -un)"
        apt-get "$@" update
        apt-get "$@" download prometheus
    fi
    dpkg -x prometheus_*.deb unpacked
    cp unpacked/usr/bin/prometheus unpacked/usr/bin/promtool "$target/bin/"
else
    echo "The tests need prometheus and promtool on the PATH, or apt-get and dpkg to fetch Debian's." >&2
    exit 1
fi
cp "$script" "$target/installed"
