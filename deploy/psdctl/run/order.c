#include "deploy/psdctl/run/order.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/system/json.h"

/* OpenBLAS's choice of kernels decides the last bits of a gradient, so pass it on. */
static json_t *environment(void)
{
    static const char *const handed_on[] = { "OPENBLAS_CORETYPE" };
    json_t *list = json_object();
    for (size_t i = 0; i < sizeof handed_on / sizeof *handed_on; i++)
        if (getenv(handed_on[i]))
            json_object_set_new(list, handed_on[i], json_string(getenv(handed_on[i])));
    return list;
}

char *psd_order_print(const char *directory, const char *make, char *const *words, const psd_keyring_t *secrets)
{
    json_t *list = json_array(), *hidden = json_object();
    for (; *words; words++)
        json_array_append_new(list, json_string(*words));
    for (unsigned i = 0; secrets && i < PSD_SECRETS; i++) {
        char flag[64];
        psd_option_flag(secrets->secret[i].key, flag, sizeof flag);
        json_object_set_new(hidden, flag, json_string(secrets->secret[i].text));
    }
    json_t *order = json_pack("{s:s, s:s, s:o, s:o, s:o}", "directory", directory, "make", make, "environment", environment(),
                              "words", list, "secrets", hidden);
    char *text = psd_json_text(order, JSON_COMPACT), *line = NULL;
    if (text && asprintf(&line, "%s\n", text) < 0)
        line = NULL;
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
    json_decref(order);
    return line;
}

static bool is_object_of_texts(const json_t *object)
{
    const char *key;
    json_t *value;
    bool is = json_is_object(object);
    json_object_foreach((json_t *)(uintptr_t)object, key, value) is = is && json_is_string(value);
    return is;
}

static bool take_words(psd_order_t *out, const json_t *words)
{
    size_t i;
    json_t *word;
    if (json_array_size(words) > PSD_ORDER_WORDS)
        return false;
    json_array_foreach(words, i, word) if ((out->word[i] = json_string_value(word))) out->n_words++;
    return out->n_words > 0 && out->n_words == json_array_size(words);
}

int psd_order_parse(psd_order_t *out, const char *line, size_t n, psd_err_t *err)
{
    json_t *words = NULL, *environment = NULL, *secrets = NULL;
    *out = (psd_order_t){ .all = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL) };
    if (json_unpack(out->all, "{s:s, s:s, s:o, s:o, s:o}", "directory", &out->directory, "make", &out->make, "environment",
                    &environment, "words", &words, "secrets", &secrets) == 0 &&
        take_words(out, words) && is_object_of_texts(environment) && is_object_of_texts(secrets)) {
        out->environment = environment;
        out->secrets = secrets;
        return PSD_OK;
    }
    psd_order_clear(out);
    return psd_err_set(err, PSD_EUSAGE, "only psdctl launch starts psdctl this way");
}

void psd_order_clear(psd_order_t *self)
{
    json_decref(self->all);
    *self = (psd_order_t){ 0 };
}
