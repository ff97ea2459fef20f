/* option.h - one option: a row of the table (options.def), or of a table of a program's own flags (flags.h); its names, and
 * a text read as its value.
 * Where values come from, and which one counts, is options.h's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum psd_program {
    PSD_PROGRAM_SERVER = 1,  /* psd */
    PSD_PROGRAM_WORKER = 2,  /* psd-worker */
    PSD_PROGRAM_CTL = 4,     /* psdctl run */
    PSD_PROGRAM_COMPARE = 8, /* psdctl compare, which takes those of psdctl run as well, */
    PSD_PROGRAM_LAUNCH = 16  /* and psdctl launch, too */
} psd_program_t;

typedef enum psd_option_type {
    PSD_OPTION_STRING,
    PSD_OPTION_NAME,
    PSD_OPTION_WORD,
    PSD_OPTION_RULE,
    PSD_OPTION_CODEC,
    PSD_OPTION_SCHEDULE,
    PSD_OPTION_INT,
    PSD_OPTION_UINT64,
    PSD_OPTION_DOUBLE,
    PSD_OPTION_BOOL,
    PSD_OPTION_DURATION,
    PSD_OPTION_SIZE,
    PSD_OPTION_ENDPOINT,
    PSD_OPTION_LISTEN,
    PSD_OPTION_LIST,
    PSD_OPTION_NUMBERS,
    PSD_OPTION_TEXTS,
    PSD_OPTION_PATH,
    PSD_OPTION_DATA,
    PSD_OPTION_KEY,
    PSD_OPTION_SWITCH /* it takes no value: given or not */
} psd_option_type_t;

typedef struct psd_option {
    const char *key; /* "data.batch" */
    psd_option_type_t type;
    unsigned programs;  /* whose flag it is: a mask of psd_program_t; the file may hold it for all */
    const char *preset; /* the default, as one would write it; NULL: none */
    const char *range;  /* "full|1..1073741824"; NULL: any */
    const char *help;   /* half a sentence */
    /* Of flags that are no options of a job file: */
    const char *argument; /* what --help calls the value, "SECONDS"; NULL: what it calls values of the type */
    char letter;          /* 'c' of -c; 0: none */
} psd_option_t;

/* What code calls an option: PSD_OPT_workers_want for workers.want. A name that is no option's does not compile. */
typedef enum psd_option_id {
#define OPTION(id, key, type, programs, preset, range, help) PSD_OPT_##id,
#include "common/config/options.def"
#undef OPTION
    PSD_N_OPTIONS
} psd_option_id_t;

/* What people are told of a type. */
typedef struct psd_option_words {
    const char *what;     /* "duration" */
    const char *argument; /* "TIME", what --help shows */
    const char *example;  /* of a list: how a job file writes it; else NULL */
} psd_option_words_t;

/* A value: its text, and what of the numbers and lists below its type has. */
typedef struct psd_option_value {
    char *text;    /* as one would write it */
    int64_t i;     /* INT */
    uint64_t u;    /* UINT64, SIZE; DURATION in milliseconds; BOOL */
    double d;      /* any number, for its range */
    char *items;   /* of a list, each ended by NUL; what `item` points into */
    char **item;   /* LIST, NUMBERS, TEXTS */
    int64_t *list; /* LIST */
    double *real;  /* LIST, NUMBERS */
    size_t n_list;
} psd_option_value_t;

enum { PSD_OPTION_WHY = 320, PSD_OPTION_TEXT = 64 /* longest flag or variable, with its end */ };

/* The table, row by row; NULL past its end. The row of a key that somebody typed, NULL when there is none. And which a row
 * of the table is. */
const psd_option_t *psd_option_at(size_t id);
const psd_option_t *psd_option_find(const char *key);
psd_option_id_t psd_option_id(const psd_option_t *row);

/* "--data-batch" and "PSD_DATA__BATCH" of a key; room for PSD_OPTION_TEXT bytes is always enough. */
void psd_option_flag(const char *key, char *out, size_t capacity);
void psd_option_variable(const char *key, char *out, size_t capacity);

/* The key that was probably meant: a close one, else one that ends alike ("batch" for data.batch), else "". */
void psd_option_nearest(const char *key, char *out, size_t capacity);

const psd_option_words_t *psd_option_words(psd_option_type_t type);

/* What --help calls the value of a row; NULL when it takes none. */
const char *psd_option_argument(const psd_option_t *row);

bool psd_option_is_list(psd_option_type_t type);

/* The next alternative of a range ("full", "1..64"): its length at `*at`; moves on by it and the bar behind it. */
size_t psd_option_alternative(const char **at);

/* The range for people: "full or 1 to 1073741824"; "" when there is none. Returns `out`. */
const char *psd_option_range(const psd_option_t *row, char *out, size_t capacity);

/* The bounds of a number of the row, in milliseconds for a duration: false where the range has none of the two. */
bool psd_option_bounds(const psd_option_t *row, double *least, double *most);

/* What the row takes, range or type: "full or 1 to 1073741824", "duration", "address or none". */
void psd_option_takes(const psd_option_t *row, char *out, size_t capacity);

/* Where in `text`, a value of the row, a path begins; NULL when it holds none: "train.gz" of "idx:train.gz". */
const char *psd_option_path(const psd_option_t *row, const char *text);

/* Read `text` as a value of the row. False, with cause and cure in `why`, when it is none. Clear it in either case. */
bool psd_option_read(const psd_option_t *row, const char *text, psd_option_value_t *out, char why[PSD_OPTION_WHY]);
void psd_option_clear(psd_option_value_t *value);
