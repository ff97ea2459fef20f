#!/usr/bin/env bash
# install.sh BIN SOURCE - what `cmake --install` leaves is whole: programs that run a job, a library that exports what is
# listed, found by pkg-config and by CMake, manual pages without a warning, units that name the programs' place.
set -euo pipefail
bin=$1 source=$2
build=$(dirname "$bin")
dir=$(mktemp -d)
pid=
# shellcheck disable=SC2317  # called by the trap
clean() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$dir"
}
trap clean EXIT

fail() {
    echo "install: $*" >&2
    exit 1
}

# The page's target for the product builds all that is installed, and no test.
target=$(sed -n 's/^cmake --build --preset release --target \([a-z]*\)$/\1/p' "$source/docs/install.md")
ninja -C "$build" -t query "$target" >"$dir/made" || fail "there is no target '$target'"
for file in bin/psd bin/psd-worker bin/psdctl worker/libpsdworker.so deploy/psd_pages; do
    grep -qx " *$file" "$dir/made" || fail "$target does not build $file"
done
! ninja -C "$build" -t inputs "$target" | grep '\(^\|/\)tests/' || fail "$target builds tests"

root=$dir/root
cmake --install "$build" --prefix "$root" >"$dir/log" || fail "$(cat "$dir/log")"
library=$(find "$root" -name 'libpsdworker.so.0')
libdir=$(dirname "$library")

# Of the library, what is listed, no more and no less: a symbol that goes breaks programs, one that comes stays for good.
nm -D --defined-only "$library" | sed 's/.* //; s/@@*/@/' | grep '@' | sort >"$dir/exported"
sed -n 's/^ \([a-z_]*@PSD_0\) .*/\1/p' "$source/deploy/debian/libpsdworker0.symbols" | sort >"$dir/listed"
diff -u "$dir/listed" "$dir/exported" >&2 || fail 'the exported symbols are not those of deploy/debian/libpsdworker0.symbols'
readelf -d "$library" | grep -q 'SONAME.*\[libpsdworker.so.0\]' || fail 'no SONAME'

# The library page's program, by pkg-config, which has to look where this was installed, and by CMake.
sed -n '/^```c$/,/^```$/{p;/^```$/q}' "$source/docs/library.md" | sed '1d;$d' >"$dir/line.c"
export PKG_CONFIG_PATH=$libdir/pkgconfig
pkg-config --validate psd-worker
[ "$(pkg-config --modversion psd-worker)" = "$("$root/bin/psdctl" --version | cut -d' ' -f2)" ] || fail 'another version'
# shellcheck disable=SC2046  # several words
cc -std=c11 -Wall -Wextra -Wpedantic -Werror -o "$dir/line" "$dir/line.c" \
    $(pkg-config --define-variable=prefix="$root" --cflags --libs psd-worker) "-Wl,-rpath,$libdir"
# The header in C++, and versions for #if.
cat >"$dir/line.cc" <<'END'
#include <string_view>

#include <psd/worker.h>
#if PSD_VERSION_MAJOR > 0 || PSD_VERSION_MINOR >= 1
int main()
{
    psd_worker_config_t config = {};
    config.size = sizeof config;
    psd_worker_t *worker = nullptr;
    const bool is_refused = psd_worker_connect(&worker, &config) != PSD_W_OK;
    psd_worker_close(&worker);
    return is_refused && psd_version() == std::string_view(PSD_VERSION) ? 0 : 1;
}
#endif
END
# shellcheck disable=SC2046  # several words
c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror -o "$dir/line++" "$dir/line.cc" \
    $(pkg-config --define-variable=prefix="$root" --cflags --libs psd-worker) "-Wl,-rpath,$libdir"
"$dir/line++" || fail 'a program in C++ cannot use the library'
mkdir "$dir/project"
cat >"$dir/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(line C)
find_package(psd 0.1 REQUIRED)
add_executable(line ../line.c)
target_link_libraries(line psd::worker)
END
cmake -S "$dir/project" -B "$dir/project/build" -DCMAKE_PREFIX_PATH="$root" >"$dir/log" 2>&1 || fail "$(cat "$dir/log")"
cmake --build "$dir/project/build" >"$dir/log" 2>&1 || fail "$(cat "$dir/log")"

# Both against an installed server.
"$root/bin/psd" --insecure --job=line --workers-min=2 --optimizer='sgd(lr=0.1)' --listen=tcp://127.0.0.1:0 --status-listen=none \
    --log-level=error >"$dir/ready" &
pid=$!
for _ in $(seq 6000); do
    grep -q '^psd ready' "$dir/ready" && break
    kill -0 $pid || fail 'psd has ended'
    sleep 0.05
done
address=$(sed -n 's/.* data=\([^ ]*\).*/\1/p' "$dir/ready")
"$dir/line" "$address" >"$dir/one" &
"$dir/project/build/line" "$address" >"$dir/two" || fail "$(cat "$dir/two")"
wait
pid=
grep -q '^y = 3.000 x -1.000 *$' "$dir/one" || fail "$(cat "$dir/one")"
grep -q '^y = 3.000 x -1.000 *$' "$dir/two" || fail "$(cat "$dir/two")"

# A whole job by installed programs, from the installed example.
doc=$root/share/doc/psd-server
"$root/bin/psdctl" run "$doc/examples/glyphs.yaml" --stop-epochs=0.1 --run-dir="$dir/run" --progress=none \
    --status-listen=none >"$dir/log" 2>&1 || fail "$(cat "$dir/log")"
grep -q '^glyphs: done' "$dir/log" || fail "$(cat "$dir/log")"

# Pages, completions, units, and the rest.
for file in share/man/man8/psd.8.gz share/man/man5/psd.yaml.5.gz share/man/man1/psd-worker.1.gz share/man/man1/psdctl.1.gz \
    share/man/man3/libpsdworker.3.gz share/bash-completion/completions/psdctl share/zsh/vendor-completions/_psd-server \
    lib/systemd/system/psd@.service lib/systemd/system/psd-worker@.service share/doc/psd-server/monitoring/psd.rules.yml \
    share/doc/psd-server/copyright include/psd/worker.h; do
    [ -s "$root/$file" ] || fail "$file lacks"
done
grep -q "^ExecStart=/.*/bin/psd -c" "$root/lib/systemd/system/psd@.service" || fail 'the unit names no program'
if command -v man >/dev/null; then
    pages=("$root"/share/man/man*/*.gz)
    [ "${#pages[@]}" -ge 15 ] || fail "only ${#pages[@]} manual pages"
    for page in "${pages[@]}"; do
        said=$(LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -l "$page" 2>&1 >"$dir/shown")
        [ -z "$said" ] || fail "$page: $said"
        grep -q '^NAME$' "$dir/shown" || fail "$page shows no name"
    done
fi
if command -v mandoc >/dev/null; then
    gunzip -k "$root"/share/man/man*/*.gz
    mandoc -T lint -W warning "$root"/share/man/man*/*.[1-9] >&2 || fail 'mandoc complains'
fi
# Every verb and every option has its place.
verbs=0
for verb in $("$root/bin/psdctl" help | sed -n 's/^  \([a-z]*\( [a-z]*\)\{0,1\}\)  *.*/\1/p' | tr ' ' - | sort -u); do
    case $verb in
    help* | psdctl*) ;;
    *) compgen -G "$root/share/man/man1/psdctl-${verb%-}*.gz" >/dev/null || fail "no page for $verb" ;;
    esac
    verbs=$((verbs + 1))
done
[ "$verbs" -ge 15 ] || fail "only $verbs verbs"
gunzip -c "$root/share/man/man5/psd.yaml.5.gz" >"$dir/keys"
keys=0
for key in $("$root/bin/psdctl" config --markdown | sed -n 's/^| `\([^`]*\)`.*/\1/p'); do
    grep -q "^.fB$key" "$dir/keys" || fail "psd.yaml(5) lacks $key"
    keys=$((keys + 1))
done
[ "$keys" -ge 60 ] || fail "only $keys keys"
echo 'install: ok'
