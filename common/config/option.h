/* option.h - one option: a row of the table (options.def), or of a table of a program's own flags (flags.h); its names, and the
 * parsing of its values. options.h decides which source of a value counts. */
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
    PSD_OPTION_GROUPS,
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
    PSD_OPTION_SWITCH /* it takes no value */
} psd_option_type_t;

typedef struct psd_option {
    const char *key; /* "data.batch" */
    psd_option_type_t type;
    unsigned programs;  /* programs that take its flag, a mask of psd_program_t; a job file may contain it for all */
    const char *preset; /* the default, as a user would write it; NULL: none */
    const char *range;  /* "full|1..1073741824"; NULL: any */
    const char *help;   /* a phrase for --help */
    /* For flags that are not options of a job file: */
    const char *argument; /* the name of the value in --help, "SECONDS"; NULL: the name for the type */
    char letter;          /* 'c' of -c; 0: none */
} psd_option_t;

/* The name of an option in code: PSD_OPT_workers_want for workers.want. A wrong name does not compile. */
typedef enum psd_option_id {
#define OPTION(id, key, type, programs, preset, range, help) PSD_OPT_##id,
#include "common/config/options.def"
#undef OPTION
    PSD_N_OPTIONS
} psd_option_id_t;

/* The words for a type in messages. */
typedef struct psd_option_words {
    const char *what;     /* "duration" */
    const char *argument; /* "TIME", what --help shows */
    const char *example;  /* of a list: how to write it in a job file; otherwise NULL */
} psd_option_words_t;

/* A value: its text, and those of the numbers and lists below that its type has. */
typedef struct psd_option_value {
    char *text;    /* as a user would write it */
    int64_t i;     /* INT */
    uint64_t u;    /* UINT64, SIZE; DURATION in milliseconds; BOOL */
    double d;      /* any number, for its range */
    char *items;   /* of a list, the items, each ended by NUL; `item` points into it */
    char **item;   /* LIST, NUMBERS, TEXTS */
    int64_t *list; /* LIST */
    double *real;  /* LIST, NUMBERS */
    size_t n_list;
} psd_option_value_t;

enum { PSD_OPTION_WHY = 320, PSD_OPTION_TEXT = 64 /* longest flag or variable, with its end */ };

/* The table, row by row; NULL past its end. The row of a key that a user typed, NULL when there is none. The id of a row. */
const psd_option_t *psd_option_at(size_t id);
const psd_option_t *psd_option_find(const char *key);
psd_option_id_t psd_option_id(const psd_option_t *row);

/* "--data-batch" and "PSD_DATA__BATCH" of a key; room for PSD_OPTION_TEXT bytes is always enough. */
void psd_option_flag(const char *key, char *out, size_t capacity);
void psd_option_variable(const char *key, char *out, size_t capacity);

/* The key that the user probably meant: a close one, otherwise one with the same last part ("batch" for data.batch), otherwise
 * "". */
void psd_option_nearest(const char *key, char *out, size_t capacity);

const psd_option_words_t *psd_option_words(psd_option_type_t type);

/* The name of a row's value in --help; NULL when it takes none. */
const char *psd_option_argument(const psd_option_t *row);

bool psd_option_is_list(psd_option_type_t type);

/* The next alternative of a range ("full", "1..64"): returns its length at `*at`, and advances past it and the bar after it. */
size_t psd_option_alternative(const char **at);

/* The range in words: "full or 1 to 1073741824"; "" when there is none. Returns `out`. */
const char *psd_option_range(const psd_option_t *row, char *out, size_t capacity);

/* The bounds of a number of the row, in milliseconds for a duration: false if the range has neither. */
bool psd_option_bounds(const psd_option_t *row, double *least, double *most);

/* The values that the row takes, as range or type: "full or 1 to 1073741824", "duration", "address or none". */
void psd_option_takes(const psd_option_t *row, char *out, size_t capacity);

/* Where in `text`, a value of the row, a path begins: "train.gz" of "idx:train.gz"; NULL when it contains none. */
const char *psd_option_path(const psd_option_t *row, const char *text);

/* Read `text` as a value of the row. PSD_ECONFIG, with cause and cure in `why`, when it is none; PSD_ENOMEM. Clear it in any
 * case. */
int psd_option_read(const psd_option_t *row, const char *text, psd_option_value_t *out, char why[PSD_OPTION_WHY]);
void psd_option_clear(psd_option_value_t *value);
