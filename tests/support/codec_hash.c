/* codec_hash.c - print the fingerprint of every codec, by the named instruction set or by the best. */
#include "tests/support/codec_hash.h"
#include "common/optim/isa.h"

int main(int argc, char **argv)
{
    char line[HASH_TEXT];
    psd_err_t err;
    if (argc > 1 && psd_isa_select(argv[1], &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 77;
    }
    for (size_t i = 0; codec_hash_line(i, line); i++)
        puts(line);
    return 0;
}
