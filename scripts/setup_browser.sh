#!/usr/bin/env bash
# On a machine of continuous integration (CI is set, Debian or Ubuntu, root) installs Chromium for the tests that look at
# the report page; elsewhere, or where that fails, these tests are skipped unless a browser is there.
set -euo pipefail
[ -n "${CI:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
for browser in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$browser" >/dev/null; then exit 0; fi
done
echo "installing Chromium for the tests of the report page"
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
    >/dev/null 2>&1; then
    echo "Chromium could not be installed: the tests in a browser are skipped" >&2
fi
