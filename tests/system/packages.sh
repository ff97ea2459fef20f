#!/usr/bin/env bash
# packages.sh BIN SOURCE - the Debian packages are made, hold what they should, and lintian has no complaint. With
# PSD_CAMPAIGN=1, as root and with a network, they are also installed by apt into a fresh Debian, and the quick start's job
# runs there.
set -euo pipefail
bin=$1 source=$2
build=$(dirname "$bin")/package # kept between runs: the second has little to compile
dir=$(mktemp -d)
mounted=
# shellcheck disable=SC2317  # called by the trap
clean() {
    [ -z "$mounted" ] || umount "$mounted"
    rm -rf --one-file-system "$dir"
}
trap clean EXIT

fail() {
    echo "packages: $*" >&2
    exit 1
}

skip() {
    echo "packages: skipped: $*"
    exit 77
}

command -v dpkg-shlibdeps >/dev/null || skip 'dpkg-dev is not installed'

quietly() {
    nice "$@" >"$dir/log" 2>&1 || fail "$*: $(tail -n 20 "$dir/log")"
}

quietly cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr -DBUILD_TESTING=OFF
quietly cmake --build "$build"
rm -f "$build"/*.deb
(cd "$build" && quietly cpack)
debs=("$build"/libpsdworker0_*.deb "$build"/libpsdworker-dev_*.deb "$build"/psd-server_*.deb "$build"/python3-psd_*_all.deb)

holds() { # DEB FILE...
    local deb=$1 file
    shift
    dpkg-deb --fsys-tarfile "$deb" | tar -t >"$dir/list"
    for file in "$@"; do
        grep -q "^\./$file\$" "$dir/list" || fail "$(basename "$deb") lacks $file"
    done
    ! grep -q '^\./usr/share/psd/\|^\./usr/local\|\.a$' "$dir/list" || fail "$(basename "$deb") holds what it should not"
}

holds "${debs[0]}" 'usr/lib/[^/]*/libpsdworker.so.0' usr/share/doc/libpsdworker0/copyright
holds "${debs[1]}" usr/include/psd/worker.h 'usr/lib/[^/]*/libpsdworker.so' 'usr/lib/[^/]*/pkgconfig/psd-worker.pc' \
    'usr/lib/[^/]*/cmake/psd/psdConfig.cmake' usr/share/man/man3/libpsdworker.3.gz
holds "${debs[2]}" usr/bin/psd usr/bin/psd-worker usr/bin/psdctl usr/lib/systemd/system/psd@.service \
    usr/share/man/man8/psd.8.gz usr/share/man/man1/psdctl-run.1.gz usr/share/bash-completion/completions/psdctl \
    usr/share/doc/psd-server/examples/glyphs.yaml
holds "${debs[3]}" usr/lib/python3/dist-packages/psd/worker.py usr/lib/python3/dist-packages/psd/py.typed \
    usr/share/doc/python3-psd/examples/mnist.py
! grep pycache "$dir/list" >&2 || fail 'python3-psd holds compiled files'
[[ $(dpkg-deb -f "${debs[2]}" Depends) == *libzmq5*libuv1* || $(dpkg-deb -f "${debs[2]}" Depends) == *libuv1*libzmq5* ]] ||
    fail "psd-server depends on $(dpkg-deb -f "${debs[2]}" Depends)"
[[ $(dpkg-deb -f "${debs[0]}" Depends) == *libzmq5* ]] || fail "libpsdworker0 depends on $(dpkg-deb -f "${debs[0]}" Depends)"
[ "$(dpkg-deb -f "${debs[2]}" Conflicts)" = profile-sync-daemon ] || fail 'psd-server conflicts with nobody'
if command -v lintian >/dev/null; then
    lintian --fail-on=error,warning --tag-display-limit=0 "${debs[@]}" >&2 || fail 'lintian complains'
else
    echo 'packages: lintian is not installed, so it was not asked'
fi
if [ "${PSD_CAMPAIGN-}" != 1 ]; then
    echo 'packages: ok'
    exit 0
fi

[ "$(id -u)" -eq 0 ] || skip 'a fresh Debian is for root to make'
command -v debootstrap >/dev/null || skip 'debootstrap is not installed'
root=$dir/root
# The same Debian as this one, from where this one has it.
read -r mirror suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Component: main' |
    grep -vE -- '-(updates|security|backports)$' | head -n 1) || skip 'apt knows no Debian'
debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$dir/log" 2>&1 ||
    skip "debootstrap: $(tail -n 3 "$dir/log"); is the network there?"
mount -t proc proc "$root/proc"
mounted=$root/proc
cp "${debs[@]}" "$root/tmp"
inside() { # COMMAND
    # No service is started there.
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive sh -c "$1" >"$dir/log" 2>&1 ||
        fail "$1: $(tail -n 20 "$dir/log")"
}
inside 'apt-get -q update && apt-get -qy install /tmp/psd-server_*.deb /tmp/libpsdworker0_*.deb /tmp/libpsdworker-dev_*.deb /tmp/python3-psd_*.deb'
inside 'cd /tmp && psdctl run /usr/share/doc/psd-server/examples/glyphs.yaml --progress=none --run-dir=/tmp/run'
grep -q '^glyphs: done' "$dir/log" || fail "the job: $(tail -n 20 "$dir/log")"
grep -E 'last_metric|wall_time|sha256' "$dir/log"
inside 'python3 -m psd --version' && grep -q '^psd 0.1' "$dir/log" || fail 'python3 -m psd does not run'
inside 'ldconfig -p | grep libpsdworker.so.0'
inside 'dpkg --verify psd-server libpsdworker0 libpsdworker-dev python3-psd && test -z "$(dpkg --audit)"'
inside 'apt-get -qy purge psd-server libpsdworker0 libpsdworker-dev python3-psd && ! command -v psd && test ! -e /usr/lib/systemd/system/psd@.service'
echo 'packages: installed, run and removed in a fresh Debian'
