#!/bin/sh
# The browser for the page's tests: one that is there ($CHROMIUM, chromium, chrome), or else Debian's package, as root.
set -eu
for name in "${CHROMIUM:-chromium}" chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if test "$(id -u)" = 0 && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium fonts-liberation >/dev/null
else
    echo "The tests of the page need Chromium: install it, or say where it is in CHROMIUM." >&2
    exit 1
fi
