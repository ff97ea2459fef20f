#include "deploy/psdctl/say.h"

#include <stdbool.h>
#include <stdint.h>

void psd_say_text(FILE *out, const char *text, size_t most)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; s[i] && i < most; i++) {
        const bool c1 = s[i] == 0xc2 && s[i + 1] >= 0x80 && s[i + 1] < 0xa0;
        putc(s[i] < 0x20 || s[i] == 0x7f || c1 ? '?' : s[i], out);
        i += c1;
    }
}

int psd_say_error(const char *verb, const psd_err_t *err)
{
    fprintf(stderr, "psdctl %s: ", verb);
    psd_say_text(stderr, err->text, SIZE_MAX);
    putc('\n', stderr);
    return psd_err_exit_code(err->code);
}
