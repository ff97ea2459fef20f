#!/usr/bin/env bash
# structure.sh BIN SOURCE - arrows between files go one way, and the core computes: it has no socket, file, clock or
# thread. And every script that may be skipped says why.
set -euo pipefail
bin=$1 source=$2
build=$(cd "$bin/.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() {
    echo "structure: $*" >&2
    exit 1
}

# What the C library may do for the core: memory, bytes and text. mmap is memory in large pages.
cat >"$dir/allowed" <<'END'
__assert_fail __cpu_model __ctype_b_loc __stack_chk_fail _GLOBAL_OFFSET_TABLE_
aligned_alloc calloc free malloc realloc madvise mmap munmap
bcmp memchr memcmp memcpy memmove memset strchr strcmp strcspn strdup strlen strncmp strnlen strspn
snprintf vsnprintf sscanf qsort ceil expm1 floor fmax fmin ldexp sqrt
crc32_iscsi protobuf_c_message_get_packed_size protobuf_c_message_pack protobuf_c_message_unpack
protobuf_c_message_free_unpacked protobuf_c_message_pack_to_buffer protobuf_c_empty_string
END
tr ' ' '\n' <"$dir/allowed" | sort >"$dir/allowed.names"
cat >"$dir/headers" <<'END'
assert.h ctype.h emmintrin.h float.h inttypes.h isa-l/crc.h math.h stdarg.h stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h string.h sys/mman.h
END
tr ' ' '\n' <"$dir/headers" | sort >"$dir/headers.names"

# Names without what a compiler, a hardened C library or a sanitizer makes of them.
plain() { sed -E 's/^__(.*)_chk$/\1/; s/^__isoc[0-9]+_//; /^__(asan|ubsan|lsan|tsan|sanitizer|gcov|odr)/d; /^(__llvm|__start|__stop)/d'; }

core=("$build/server/libpsd_core.a" "$build/proto/libpsd_proto.a" "$build/common/libpsd_base.a" "$build/proto/libpsd_wire.a")
for archive in "${core[@]}"; do
    [ -e "$archive" ] || fail "there is no $archive; the first argument is the build's bin"
done
nm -g "${core[@]}" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u >"$dir/defined"
nm -u "${core[@]}" 2>/dev/null | awk 'NF == 2 { print $2 }' | sort -u | comm -23 - "$dir/defined" | plain | sort -u >"$dir/wanted"
[ -s "$dir/wanted" ] || fail "there is no core in $build"
comm -23 "$dir/wanted" "$dir/allowed.names" >"$dir/strange"
[ ! -s "$dir/strange" ] || fail "the core calls $(tr '\n' ' ' <"$dir/strange")"

for archive in "${core[@]:0:3}"; do
    ar t "$archive"
done | sed 's/\.o$//' | sort -u >"$dir/sources"
while read -r name; do
    found=
    for path in "$source"/{server/core,server/core/modes,proto,common/base,common/codec,common/codec/kernels,common/optim,common/optim/kernels,worker}/"$name"; do
        [ -e "$path" ] || continue
        found=1
        cat "$path"
        [ ! -e "${path%.c}.h" ] || cat "${path%.c}.h"
    done
    case $found$name in
    1* | *.pb-c.c) ;; # what protoc has made lies in the build
    *) fail "where is $name, which is in the core?" ;;
    esac
done <"$dir/sources" | sed -n 's/^#include <\([^>]*\)>.*/\1/p' | sort -u >"$dir/included"
[ "$(wc -l <"$dir/included")" -ge 10 ] || fail "only $(wc -l <"$dir/included") headers: are these the sources?"
comm -23 "$dir/included" "$dir/headers.names" >"$dir/strange"
[ ! -s "$dir/strange" ] || fail "the core includes $(tr '\n' ' ' <"$dir/strange")"

# A test that is skipped says why.
find "$source/tests" -name '*.sh' -print0 | xargs -0 awk '
    FNR == 1 { one = two = "" }
    /exit 77/ && one two $0 !~ /skipped:/ { print FILENAME ":" FNR }
    { two = one; one = $0 }' >"$dir/strange"
[ ! -s "$dir/strange" ] || fail "a test is skipped without a reason: $(tr '\n' ' ' <"$dir/strange")"

# Arrows: "a b" where a file calls, or reads from, another. tsort names a circle if there is one.
for archive in "$build"/{common,proto,server,worker,deploy}/lib*.a; do
    folder=${archive#"$build"/}
    nm -gA "$archive" 2>/dev/null | sed -E "s|^[^:]*:([^:]*)\.c\.o: *|${folder%/*}/\1 |"
done | grep -v '\.pb-c ' |
    awk '$2 == "U" { wants[++n] = $3 " " $1 } NF == 4 { home[$4] = $1 }
        END { for (i = 1; i <= n; i++) { split(wants[i], w, " "); if (w[1] in home && home[w[1]] != w[2]) print w[2], home[w[1]] } }' |
    sort -u >"$dir/arrows"
[ "$(wc -l <"$dir/arrows")" -gt 300 ] || fail "only $(wc -l <"$dir/arrows") arrows: are these the objects?"
tsort "$dir/arrows" >/dev/null 2>"$dir/circles" || fail "files call each other: $(grep -v 'contains a loop' "$dir/circles" | sed 's/^tsort: //' | tr '\n' ' ')"
echo 'structure: ok'
