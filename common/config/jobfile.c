#include "common/config/jobfile.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/base/err.h"

typedef struct reader {
    yaml_parser_t parser;
    const psd_jobfile_visitor_t *visitor;
    char path[PSD_JOBFILE_MAX_KEY]; /* of the key being read */
    size_t depth;                   /* collections open */
    char **seen;                    /* paths met so far, to find duplicates */
    size_t n_seen;
    int rc;    /* PSD_OK, PSD_ECONFIG after a complaint, PSD_ENOMEM */
    bool stop; /* reading ends here */
} reader_t;

static void complain(reader_t *self, yaml_mark_t at, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void complain(reader_t *self, yaml_mark_t at, const char *format, ...)
{
    char sentence[400];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    self->rc = self->rc ? self->rc : PSD_ECONFIG;
    self->visitor->complain(self->visitor->arg, at.line + 1, at.column + 1, sentence);
}

/* The usual cause of an error of libyaml, added to its message. */
static const char *cure(const char *problem)
{
    static const struct {
        const char *says, *cure;
    } cures[] = {
        { "did not find expected key", ": indent the keys of a section alike" },
        { "mapping values are not allowed", ": indent keys alike, and put text that holds \": \" in quotes" },
        { "did not find expected ',' or", ": close the bracket, and put text that holds a comma in quotes" },
        { "cannot start any token", ": put text that begins so in quotes" },
        { "could not find expected ':'", ": write \"key: value\", with a blank" },
    };
    for (size_t i = 0; problem && i < sizeof cures / sizeof *cures; i++)
        if (strstr(problem, cures[i].says))
            return cures[i].cure;
    return "";
}

static bool starve(reader_t *self)
{
    self->rc = PSD_ENOMEM;
    self->stop = true;
    return false;
}

/* Get the next event; false when libyaml cannot parse it, which ends the reading. */
static bool next(reader_t *self, yaml_event_t *event)
{
    if (self->stop)
        return false;
    if (yaml_parser_parse(&self->parser, event))
        return true;
    const yaml_parser_t *p = &self->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return starve(self);
    complain(self, p->problem_mark, "%s; this is not YAML%s", p->problem, cure(p->problem));
    self->stop = true;
    return false;
}

/* The anchor and the tag that an event carries, if it can carry any. */
static const yaml_char_t *anchor_of(const yaml_event_t *event)
{
    return event->type == YAML_SCALAR_EVENT           ? event->data.scalar.anchor
           : event->type == YAML_MAPPING_START_EVENT  ? event->data.mapping_start.anchor
           : event->type == YAML_SEQUENCE_START_EVENT ? event->data.sequence_start.anchor
                                                      : NULL;
}

static const yaml_char_t *tag_of(const yaml_event_t *event)
{
    return event->type == YAML_SCALAR_EVENT           ? event->data.scalar.tag
           : event->type == YAML_MAPPING_START_EVENT  ? event->data.mapping_start.tag
           : event->type == YAML_SEQUENCE_START_EVENT ? event->data.sequence_start.tag
                                                      : NULL;
}

static void check_plainness(reader_t *self, const yaml_event_t *event)
{
    if (event->type == YAML_ALIAS_EVENT)
        complain(self, event->start_mark, "*%.40s is an alias; write the value out", event->data.alias.anchor);
    if (anchor_of(event))
        complain(self, event->start_mark, "&%.40s is an anchor; write each value out", anchor_of(event));
    if (tag_of(event))
        complain(self, event->start_mark, "tag %.40s is not needed, because psd knows the types; leave it out", tag_of(event));
}

static bool opens(const yaml_event_t *event)
{
    return event->type == YAML_MAPPING_START_EVENT || event->type == YAML_SEQUENCE_START_EVENT;
}

static bool closes(const yaml_event_t *event)
{
    return event->type == YAML_MAPPING_END_EVENT || event->type == YAML_SEQUENCE_END_EVENT;
}

/* Skip a value whose first event is `first`, at any depth, by counting instead of recursion. */
static void skip(reader_t *self, const yaml_event_t *first)
{
    yaml_event_t event;
    size_t open = opens(first);
    while (open && next(self, &event)) {
        open += opens(&event);
        open -= closes(&event);
        yaml_event_delete(&event);
    }
}

static bool enter(reader_t *self, const yaml_event_t *event)
{
    if (self->depth++ < PSD_JOBFILE_MAX_DEPTH)
        return true;
    complain(self, event->start_mark, "nested deeper than %d", PSD_JOBFILE_MAX_DEPTH);
    self->stop = true;
    return false;
}

/* Remember `path`; false when it was met before. */
static bool is_new(reader_t *self)
{
    for (size_t i = 0; i < self->n_seen; i++)
        if (strcmp(self->seen[i], self->path) == 0)
            return false;
    char **more = realloc(self->seen, (self->n_seen + 1) * sizeof *more);
    char *copy = strdup(self->path);
    if (more)
        self->seen = more;
    if (!more || !copy) {
        free(copy);
        return !starve(self);
    }
    self->seen[self->n_seen++] = copy;
    return true;
}

/* The reason why an item cannot be in a list; NULL: it can. */
static const char *fault_of_item(const yaml_event_t *event, bool texts)
{
    const char *item = event->type == YAML_SCALAR_EVENT ? (const char *)event->data.scalar.value : "";
    if (texts)
        return !*item                                                           ? "not a text"
               : strchr(item, ';') || strlen(item) != event->data.scalar.length ? "not a text; leave the ; out"
                                                                                : NULL;
    return !*item || event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE || strchr(item, ',') ? "not a number" : NULL;
}

/* The text of a scalar; NULL, with an error, if it is empty or contains NUL or ;. */
static const char *text_of(reader_t *self, const yaml_event_t *event, const char *what)
{
    const char *text = event->type == YAML_SCALAR_EVENT ? (const char *)event->data.scalar.value : "";
    check_plainness(self, event);
    if (*text && !strchr(text, ';') && strlen(text) == event->data.scalar.length)
        return text;
    complain(self, event->start_mark, "%s of a section in %s is not a text; write \"key: value\", without ;", what, self->path);
    return NULL;
}

/* Read a section of a list as text: the value of its key `match`, then the other keys in brackets. False when it is not such a
 * section. */
static bool read_item(reader_t *self, const yaml_event_t *start, char text[PSD_JOBFILE_MAX_LIST])
{
    char match[PSD_JOBFILE_MAX_KEY] = "", others[PSD_JOBFILE_MAX_LIST - PSD_JOBFILE_MAX_KEY - 2] = "";
    size_t used = 0;
    bool good = true, fits = true;
    yaml_event_t key, value;
    if (!enter(self, start))
        return false;
    while (next(self, &key) && key.type != YAML_MAPPING_END_EVENT) {
        const char *name = text_of(self, &key, "a key");
        skip(self, &key);
        if (next(self, &value)) {
            const char *is = text_of(self, &value, "a value");
            skip(self, &value);
            good &= name && is;
            if (name && is && !strcmp(name, "match"))
                fits &= snprintf(match, sizeof match, "%s", is) < (int)sizeof match;
            else if (name && is)
                used += (size_t)snprintf(others + used, sizeof others - used, "%s%s=%s", used ? ", " : "", name, is);
            fits &= used < sizeof others;
            used = used < sizeof others ? used : sizeof others - 1;
            yaml_event_delete(&value);
        }
        yaml_event_delete(&key);
    }
    if (self->stop)
        return false;
    yaml_event_delete(&key);
    self->depth--;
    if (!fits)
        complain(self, start->start_mark, "a section in %s is too long: `match` has at most %d bytes, all else together %d",
                 self->path, PSD_JOBFILE_MAX_KEY - 1, (int)sizeof others - 1);
    else if (good && (!*match || !*others))
        complain(self, start->start_mark,
                 "a section in %s needs a key match, a pattern of names, and other keys, the values to change", self->path);
    snprintf(text, PSD_JOBFILE_MAX_LIST, "%s(%s)", match, others);
    return good && fits && *match && *others;
}

/* Read a list: of plain scalars as "784,128,10"; of texts as "sgd(lr=0.1); adam", some of which may be sections. */
static void read_list(reader_t *self, const yaml_event_t *start, bool texts, bool sections)
{
    yaml_mark_t at = start->start_mark;
    char text[PSD_JOBFILE_MAX_LIST] = "";
    size_t used = 0;
    yaml_event_t event;
    bool good = true;
    if (!enter(self, start))
        return;
    while (next(self, &event) && event.type != YAML_SEQUENCE_END_EVENT) {
        const bool is_section = sections && event.type == YAML_MAPPING_START_EVENT;
        const char *fault = is_section ? NULL : fault_of_item(&event, texts);
        char section[PSD_JOBFILE_MAX_LIST];
        check_plainness(self, &event);
        if (is_section && !read_item(self, &event, section)) {
            good = false;
        } else if (fault) {
            complain(self, event.start_mark, "an item of %s is %s", self->path, fault);
            good = false;
            skip(self, &event);
        } else {
            int n = snprintf(text + used, sizeof text - used, "%s%s",
                             !used   ? ""
                             : texts ? "; "
                                     : ",",
                             is_section ? section : (const char *)event.data.scalar.value);
            used = n < 0 || used + (size_t)n >= sizeof text ? sizeof text - 1 : used + (size_t)n;
        }
        yaml_event_delete(&event);
    }
    if (self->stop)
        return;
    yaml_event_delete(&event);
    self->depth--;
    if (used == sizeof text - 1)
        complain(self, at, "the list %s is too long", self->path);
    else if (good)
        self->visitor->value(self->visitor->arg, self->path, text, PSD_FORM_LIST, at.line + 1, at.column + 1);
}

static void read_scalar(reader_t *self, const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    yaml_mark_t at = event->start_mark;
    if (strlen(text) != event->data.scalar.length)
        complain(self, at, "%s holds a NUL", self->path);
    else if (plain && (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
        complain(self, at, "%s has no value; give one, or leave the key out", self->path);
    else
        self->visitor->value(self->visitor->arg, self->path, text, plain ? PSD_FORM_PLAIN : PSD_FORM_QUOTED, at.line + 1,
                             at.column + 1);
}

static void read_section(reader_t *self, const yaml_event_t *start);

/* Read the value of self->path, which begins with `event`. */
static void read_value(reader_t *self, const yaml_event_t *event)
{
    psd_key_t key = self->visitor->key(self->visitor->arg, self->path);
    check_plainness(self, event);
    if (event->type == YAML_ALIAS_EVENT)
        return;
    if (key == PSD_KEY_SECTION && event->type == YAML_MAPPING_START_EVENT) {
        read_section(self, event);
    } else if (key == PSD_KEY_SECTION) {
        complain(self, event->start_mark, "%s is a section; write its keys below it, indented", self->path);
        skip(self, event);
    } else if (key >= PSD_KEY_VALUE && event->type == YAML_MAPPING_START_EVENT) {
        complain(self, event->start_mark, "%s takes a value, not a section", self->path);
        skip(self, event);
    } else if (key >= PSD_KEY_VALUE && event->type == YAML_SEQUENCE_START_EVENT) {
        read_list(self, event, key >= PSD_KEY_TEXTS, key == PSD_KEY_GROUPS);
    } else if (key >= PSD_KEY_VALUE) {
        read_scalar(self, event);
    } else {
        skip(self, event);
    }
}

/* Append `key` to the path; false, with an error, when it is not a valid key. */
static bool push_key(reader_t *self, const yaml_event_t *event)
{
    const char *key = event->type == YAML_SCALAR_EVENT ? (const char *)event->data.scalar.value : "";
    size_t used = strlen(self->path);
    check_plainness(self, event);
    if (strcmp(key, "<<") == 0) {
        complain(self, event->start_mark, "<< merges keys; write each key out");
        return false;
    }
    if (!*key || strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != strlen(key)) {
        complain(self, event->start_mark, "a key is made of letters, digits, _ and dots");
        return false;
    }
    if (used + strlen(key) + 2 > sizeof self->path) {
        complain(self, event->start_mark, "unknown key: too long");
        return false;
    }
    snprintf(self->path + used, sizeof self->path - used, "%s%s", used ? "." : "", key);
    return true;
}

static void read_pair(reader_t *self, const yaml_event_t *key)
{
    yaml_event_t value;
    size_t used = strlen(self->path);
    bool good = push_key(self, key);
    if (self->n_seen == PSD_JOBFILE_MAX_KEYS) {
        complain(self, key->start_mark, "over %d keys; this is not a job file", PSD_JOBFILE_MAX_KEYS);
        self->stop = true;
    } else if (good && !is_new(self)) {
        complain(self, key->start_mark, "duplicate key %s; keep one", self->path);
        good = false;
    } else if (good && self->visitor->key(self->visitor->arg, self->path) == PSD_KEY_UNKNOWN) {
        self->rc = self->rc ? self->rc : PSD_ECONFIG;
        self->visitor->unknown(self->visitor->arg, self->path, key->start_mark.line + 1, key->start_mark.column + 1);
    }
    skip(self, key); /* a key may itself be a collection: [a, b]: 1 */
    if (next(self, &value)) {
        if (good)
            read_value(self, &value);
        else
            skip(self, &value);
        yaml_event_delete(&value);
    }
    self->path[used] = '\0';
}

/* Read the pairs of a mapping; PSD_JOBFILE_MAX_DEPTH bounds the recursion. */
static void read_section(reader_t *self, const yaml_event_t *start)
{
    yaml_event_t event;
    if (!enter(self, start))
        return;
    while (next(self, &event) && event.type != YAML_MAPPING_END_EVENT) {
        read_pair(self, &event);
        yaml_event_delete(&event);
    }
    if (self->stop)
        return;
    yaml_event_delete(&event);
    self->depth--;
}

static void read_document(reader_t *self)
{
    yaml_event_t event;
    size_t documents = 0;
    bool done = false;
    while (!done && next(self, &event)) {
        if (event.type == YAML_DOCUMENT_START_EVENT) {
            if (event.data.document_start.version_directive ||
                event.data.document_start.tag_directives.start != event.data.document_start.tag_directives.end)
                complain(self, event.start_mark, "directives (%%) are not used here; leave them out");
            if (++documents > 1) {
                complain(self, event.start_mark, "a second document; a file describes one job");
                self->stop = true;
            }
        } else if (event.type == YAML_MAPPING_START_EVENT) {
            check_plainness(self, &event);
            read_section(self, &event);
        } else if (event.type == YAML_SCALAR_EVENT || event.type == YAML_SEQUENCE_START_EVENT || event.type == YAML_ALIAS_EVENT) {
            complain(self, event.start_mark, "a job file is a list of \"key: value\" lines");
            skip(self, &event);
        }
        done = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
}

/* Refuse tabs everywhere, because they look like spaces. */
static void check_tabs(reader_t *self, const char *text, size_t n_bytes)
{
    yaml_mark_t at = { 0, 0, 0 };
    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] == '\t') {
            complain(self, at, "a tab; use spaces");
            return;
        }
        at.column++;
        if (text[i] == '\n')
            at = (yaml_mark_t){ 0, at.line + 1, 0 };
    }
}

int psd_jobfile_read(const void *text, size_t n_bytes, const psd_jobfile_visitor_t *visitor)
{
    reader_t self = { .visitor = visitor };
    if (n_bytes > PSD_JOBFILE_MAX_BYTES) {
        complain(&self, (yaml_mark_t){ 0, 0, 0 }, "over 1 MiB; this is not a job file");
        return self.rc;
    }
    if (n_bytes && memchr(text, '\0', n_bytes))
        complain(&self, (yaml_mark_t){ 0, 0, 0 }, "binary data, or text in UTF-16; a job file is text in UTF-8");
    else
        check_tabs(&self, text, n_bytes);
    if (self.rc)
        return self.rc;
    if (!yaml_parser_initialize(&self.parser))
        return PSD_ENOMEM;
    yaml_parser_set_encoding(&self.parser, YAML_UTF8_ENCODING);
    const size_t mark = n_bytes >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0; /* libyaml counts it as a column */
    yaml_parser_set_input_string(&self.parser, (const yaml_char_t *)text + mark, n_bytes - mark);
    read_document(&self);
    yaml_parser_delete(&self.parser);
    for (size_t i = 0; i < self.n_seen; i++)
        free(self.seen[i]);
    free(self.seen);
    return self.rc;
}
