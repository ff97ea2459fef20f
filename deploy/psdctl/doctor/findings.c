#include "deploy/psdctl/doctor/findings.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "deploy/psdctl/say.h"

static const char *const words[] = { [PSD_VERDICT_OK] = "ok", [PSD_VERDICT_WARN] = "warn", [PSD_VERDICT_BAD] = "bad" };

struct psd_findings {
    json_t *list; /* the findings; NULL: they are printed at once */
    size_t n[3];  /* number per verdict */
};

void psd_finding(psd_findings_t *self, psd_verdict_t verdict, const char *subject, const char *cure, const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    self->n[verdict]++;
    if (self->list) {
        json_array_append_new(self->list, json_pack("{s:s, s:s, s:s, s:s}", "subject", subject, "verdict", words[verdict], "found",
                                                    text, "cure", cure));
        return;
    }
    printf("%-5s %-14s ", words[verdict], subject);
    psd_say_text(stdout, text, SIZE_MAX);
    if (*cure) {
        printf("\n%21s", "");
        psd_say_text(stdout, cure, SIZE_MAX);
    }
    putchar('\n');
    fflush(stdout);
}

psd_findings_t *psd_findings_new(bool as_json)
{
    psd_findings_t *self = calloc(1, sizeof *self);
    if (self && as_json && !(self->list = json_array())) {
        free(self);
        return NULL;
    }
    return self;
}

void psd_findings_destroy(psd_findings_t **self_p)
{
    if (*self_p)
        json_decref((*self_p)->list);
    free(*self_p);
    *self_p = NULL;
}

psd_verdict_t psd_findings_worst(const psd_findings_t *self)
{
    return self->n[PSD_VERDICT_BAD] ? PSD_VERDICT_BAD : self->n[PSD_VERDICT_WARN] ? PSD_VERDICT_WARN : PSD_VERDICT_OK;
}

void psd_findings_conclude(const psd_findings_t *self)
{
    const char *verdict = words[psd_findings_worst(self)];
    if (!self->list) {
        printf("%zu ok, %zu warn, %zu bad\n", self->n[PSD_VERDICT_OK], self->n[PSD_VERDICT_WARN], self->n[PSD_VERDICT_BAD]);
        return;
    }
    json_t *root = json_pack("{s:s, s:s, s:s, s:O}", "schema", "psd.doctor/1", "version", PSD_VERSION, "verdict", verdict,
                             "findings", self->list);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}
