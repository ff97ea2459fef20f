/* logged.h - what a machine has said among its actions, for tests. */
#pragma once

#include <stdio.h>
#include <string.h>

#include "proto/actions.h"

/* The number of lines with this id; `text` and `level` are those of the last one, "" if there is none. */
static inline unsigned logged(const psd_actions_t *out, const char *id, char text[PSD_MAX_TEXT], int *level)
{
    unsigned n = 0;
    *text = '\0';
    for (size_t i = 0; i < out->n; i++)
        if (out->at[i].act == PSD_ACT_LOG && !strcmp(out->at[i].id, id)) {
            n++;
            *level = out->at[i].level;
            snprintf(text, PSD_MAX_TEXT, "%s", out->at[i].msg.text);
        }
    return n;
}
