#!/bin/sh
# Compile optimizers and codecs with every compiler at hand, unoptimised and optimised, and compare the bits that they
# compute, on every instruction set of this processor, with the committed ones. Exit code 77: a compiler is missing.
# Usage: optim_hash.sh SOURCE_DIR
set -eu
cd "$1"
for compiler in gcc clang; do
    command -v $compiler >/dev/null || { echo "optim_hash: skipped: there is no $compiler" && exit 77; }
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

isas="generic"
[ "$(uname -m)" = x86_64 ] && isas="sse2 avx2 avx512"
flags="-std=c11 -D_GNU_SOURCE -I. -fno-math-errno -ffp-contract=off"
sources="common/optim/optimizer.c common/optim/isa.c common/optim/rule.c common/base/scanner.c common/base/words.c common/config/number.c common/base/copy.c common/base/err.c common/optim/aggregate.c common/optim/clip.c common/optim/groups.c common/optim/passes.c common/optim/schedule.c common/optim/whole.c common/base/partition.c common/codec/codec.c common/codec/spec.c"

# The flags of an instruction set, as in common/CMakeLists.txt.
isa_flags() {
    case $1 in
    avx2) echo -mavx2 ;;
    avx512) echo -mavx512f -mavx512dq -mavx512vl -mprefer-vector-width=512 ;;
    esac
}

for compiler in gcc clang; do
    for level in -O0 -O3; do
        build=$out/$compiler$level
        mkdir "$build"
        for isa in $isas; do
            for source in common/optim/kernels/*.c common/codec/kernels/*.c; do
                # shellcheck disable=SC2046,SC2086
                $compiler $flags $level $(isa_flags "$isa") -DPSD_ISA="$isa" -c "$source" \
                    -o "$build/$isa-$(basename "$source" .c).o"
            done
        done
        for what in optim codec; do
            # shellcheck disable=SC2086
            $compiler $flags $level $sources tests/support/${what}_hash.c "$build"/*.o -o "$build/${what}_hash" -lm -lpthread
            for isa in $isas; do
                "$build/${what}_hash" "$isa" >"$build/$isa.txt" || { [ $? = 77 ] && continue; exit 1; }
                diff -u "tests/golden/${what}_hash.expected" "$build/$isa.txt"
                echo "$compiler $level $isa: $(wc -l <"$build/$isa.txt") fingerprints ($what), the same bits"
            done
        done
    done
done
