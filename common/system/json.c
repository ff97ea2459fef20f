#include "common/system/json.h"

#include <stdlib.h>

/* The text is measured first, and written into memory of its size, which does not have to grow. */
char *psd_json_text(const json_t *json, size_t flags)
{
    const size_t n = json ? json_dumpb(json, NULL, 0, flags) : 0;
    char *text = n ? malloc(n + 1) : NULL;
    if (!text || json_dumpb(json, text, n, flags) != n) {
        free(text);
        return NULL;
    }
    text[n] = '\0';
    return text;
}
