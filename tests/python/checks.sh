#!/usr/bin/env bash
# checks.sh SOURCE - mypy in strict mode and flake8 find nothing in the Python package; skipped where neither is installed.
set -euo pipefail
source=$1
ran=
if command -v mypy >/dev/null && /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$source/worker/python" && mypy --cache-dir "$dir" --config-file pyproject.toml)
    ran+=' mypy'
fi
if command -v flake8 >/dev/null; then
    flake8 --config "$source/worker/python/setup.cfg" "$source/worker/python" "$source/tests/python"
    ran+=' flake8'
fi
[ -n "$ran" ] || {
    echo 'checks: skipped: neither mypy with numpy nor flake8 is here'
    exit 77
}
echo "checks:$ran"
