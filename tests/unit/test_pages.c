#include <criterion/criterion.h>
#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wordexp.h>

#include "common/optim/optimizer.h"
#include "common/config/option_page.h"
#include "common/config/options.h"
#include "proto/message.h"

/* The pages are true: their commands and the example in C run, their tables match the program's, the page of the protocol names
 * everything in proto/message.h, and includes, libraries and functions are where ARCHITECTURE.md says. */

TestSuite(pages, .timeout = 600);

/* The whole file; valid until the test ends. */
static char *read_page(const char *name)
{
    static char *kept[1024];
    static size_t n_kept;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", PSD_SOURCE_DIR, name);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    static char text[1 << 20];
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    cr_assert_lt(n_kept, sizeof kept / sizeof *kept);
    return kept[n_kept++] = strdup(text);
}

/* The next block of `language` after `*at`, as a new string; NULL when there is none. */
static char *next_block(const char **at, const char *language)
{
    char fence[32];
    snprintf(fence, sizeof fence, "```%s\n", language);
    const char *start = strstr(*at, fence);
    if (!start)
        return NULL;
    start += strlen(fence);
    const char *end = strstr(start, "```");
    cr_assert_not_null(end);
    *at = end + 3;
    return strndup(start, (size_t)(end - start));
}

static bool starts(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

static bool is_name(char c) { return isalnum((unsigned char)c) || c == '_'; }

/* Run a command of a shell in the source directory with the built programs first in its path; its output is in `output`. */
static char output[1 << 16];

static int run(const char *command)
{
    char line[2048];
    snprintf(line, sizeof line, "cd %s && PATH=%s:$PATH && %s 2>&1 </dev/null", PSD_SOURCE_DIR, PSD_BIN_DIR, command);
    FILE *pipe = popen(line, "r");
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- commands ---- */

/* Whether the words, up to those of another program, are options that the program takes, with values that it takes. */
static void check_options(unsigned program, size_t n_words, char **argv, const char *line)
{
    size_t argc = 1;
    while (argc < n_words && strcmp(argv[argc], "--") != 0)
        argc++;
    psd_err_t err = { 0 };
    psd_options_t *options = psd_options_new(program);
    cr_assert_eq(chdir(PSD_SOURCE_DIR), 0); /* paths of job files are relative to here */
    cr_expect_eq(psd_options_load(options, (int)argc, argv, &err), PSD_OK, "%s: %s", line, err.text);
    psd_options_destroy(&options);
}

static bool is_one_of(const char *word, const char *const *words)
{
    while (*words && strcmp(word, *words) != 0)
        words++;
    return *words;
}

static void check_psdctl(size_t argc, char **argv, const char *line)
{
    char command[512];
    cr_assert_geq(argc, 2, "%s", line);
    if (!strcmp(argv[1], "run") || !strcmp(argv[1], "verify"))
        check_options(PSD_PROGRAM_CTL, argc - 1, argv + 1, line);
    if (!strcmp(argv[1], "launch"))
        check_options(PSD_PROGRAM_CTL | PSD_PROGRAM_LAUNCH, argc - 1, argv + 1, line);
    static const char *const not_run[] = { "run",    "launch",  "status",  "top",  "wait",   "verify", "export",
                                           "import", "predict", "compare", "tune", "keygen", NULL };
    static const char *const has_own_options[] = { "export", "import", "predict", "compare", "keygen", "status", NULL };
    if (is_one_of(argv[1], not_run))
        snprintf(command, sizeof command, "psdctl help %s", argv[1]);
    else if (strstr(line, "--join=")) /* for a job that is not there: the flags before are read all the same */
        snprintf(command, sizeof command, "%s --help", line);
    else
        snprintf(command, sizeof command, "%s", line);
    cr_expect_eq(run(command), 0, "%s: %s", line, output);
    for (size_t i = 2; is_one_of(argv[1], has_own_options) && i < argc; i++)
        cr_expect(*argv[i] != '-' || strstr(output, strtok(argv[i], "=")), "%s: no option %s", line, argv[i]);
}

static bool has_preset(const char *name)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"name\": \"%s\"", name);
    char *presets = read_page("CMakePresets.json");
    return strstr(presets, quoted);
}

static void check_path(const char *url, const char *line)
{
    static const char *const paths[] = { "/", "/status", "/events", "/history", "/metrics", "/livez", "/healthz", "/readyz" };
    const char *path = strchr(strstr(url, "//") + 2, '/');
    bool known = false;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        known |= path && strcmp(path, paths[i]) == 0;
    cr_expect(known, "%s", line);
}

/* A script of the tree: it exists, is executable, and knows the options that the page gives it. */
static void check_script(size_t argc, char **argv, const char *line)
{
    const char *name = strncmp(argv[0], "./", 2) ? argv[0] : argv[0] + 2;
    char *text = read_page(name), path[512];
    snprintf(path, sizeof path, "%s/%s", PSD_SOURCE_DIR, name);
    cr_expect_eq(access(path, X_OK), 0, "%s", line);
    for (size_t i = 1; i < argc; i++)
        cr_expect(*argv[i] != '-' || strstr(text, argv[i]), "%s does not know %s", name, argv[i]);
}

static void check_command(const char *line)
{
    static const char *const scripts[] = { "./deploy/quickstart",
                                           "deploy/packages",
                                           "deploy/examples/choose",
                                           "./tests/run",
                                           "tests/run",
                                           "tests/chaos",
                                           "tests/sim/planted.sh",
                                           "tests/bench/codec_accuracy.py",
                                           "deploy/slurm/local-cluster",
                                           NULL };
    static const char *const cmakes[] = { "cmake", "ctest", NULL };
    static const char *const elsewhere[] = { "cc",     "./line",         /* run by the example's own test, */
                                             "mpirun",                   /* by system/mpirun, */
                                             "awk",                      /* by system/choose, */
                                             "cpack",  "apt",    NULL }; /* and by system/packages */
    char *word[32], *copy = strdup(line), *built = strstr(copy, "build/");
    wordexp_t words;
    copy[strstr(copy, " # ") ? strstr(copy, " # ") - copy : (ptrdiff_t)strlen(copy)] = '\0';
    copy[strstr(copy, " > ") ? strstr(copy, " > ") - copy : (ptrdiff_t)strlen(copy)] = '\0'; /* a redirection is not an argument */
    cr_assert_eq(wordexp(built == copy ? strstr(copy, "bin/") + 4 : copy, &words, 0), 0, "%s", line);
    size_t n = words.we_wordc;
    memcpy(word, words.we_wordv, (n + 1) * sizeof *word);
    if (!strcmp(word[0], "psd"))
        check_options(PSD_PROGRAM_SERVER, n, word, line);
    else if (!strcmp(word[0], "psd-worker"))
        check_options(PSD_PROGRAM_WORKER, n, word, line);
    else if (!strcmp(word[0], "psdctl"))
        check_psdctl(n, word, line);
    else if (!strcmp(word[0], "sbatch"))
        check_script(n - 1, word + 1, line);
    else if (!strcmp(word[0], "curl"))
        check_path(word[1], line);
    else if (is_one_of(word[0], scripts))
        check_script(n, word, line);
    else if (is_one_of(word[0], cmakes)) {
        for (size_t i = 1; i + 1 < n; i++)
            cr_expect(strcmp(word[i], "--preset") || has_preset(word[i + 1]), "%s", line);
    } else if (built == copy) { /* a fuzzer or bench has its source */
        char pattern[256];
        snprintf(pattern, sizeof pattern, "ls tests/*/%s.c", strcmp(word[0], "psd-sim") ? word[0] : "psd_sim");
        cr_expect_eq(run(pattern), 0, "%s", line);
    } else
        cr_expect(is_one_of(word[0], elsewhere), "nobody checks: %s", line);
    wordfree(&words);
    free(copy);
}

static unsigned check_commands_of(const char *page)
{
    const char *at = read_page(page);
    unsigned n = 0;
    for (char *block; (block = next_block(&at, "sh")); free(block))
        for (char *line, *rest = block; (line = strsep(&rest, "\n"));)
            if (*line && *line != '#') {
                check_command(line);
                n++;
            }
    return n;
}

/* Pages for people: those at the top, and all of docs/. */
typedef void on_page_fn(const char *page);

static void each_page(on_page_fn *check)
{
    static const char *const at_top[] = { "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "proto/PROTOCOL.md" };
    for (size_t i = 0; i < sizeof at_top / sizeof *at_top; i++)
        check(at_top[i]);
    DIR *docs = opendir(PSD_SOURCE_DIR "/docs");
    cr_assert_not_null(docs);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(docs));) {
        char page[300];
        const char *dot = strrchr(entry->d_name, '.');
        snprintf(page, sizeof page, "docs/%s", entry->d_name);
        if (!dot || strcmp(dot, ".md") != 0)
            continue;
        check(page);
        n++;
    }
    closedir(docs);
    cr_expect_geq(n, 12, "docs/ has %zu pages", n);
}

static unsigned n_commands;

static void add_commands_of(const char *page) { n_commands += check_commands_of(page); }

Test(pages, each_command_of_each_page_runs_or_names_programs_and_flags_that_there_are)
{
    n_commands = 0;
    each_page(add_commands_of);
    cr_expect_geq(n_commands, 60, "%u", n_commands);
}

Test(pages, the_readme_has_at_most_200_lines)
{
    unsigned n = 0;
    for (const char *at = read_page("README.md"); (at = strchr(at, '\n')); at++)
        n++;
    cr_expect_leq(n, 200, "%u", n);
}

/* [text](target): a file, from the page's folder, and a heading there. */
static void check_links_of(const char *page)
{
    char folder[300], path[700];
    snprintf(folder, sizeof folder, "%s", page);
    char *slash = strrchr(folder, '/');
    *(slash ? slash : folder) = '\0';
    for (const char *at = read_page(page); (at = strstr(at, "]("));) {
        const size_t n = strcspn(at += 2, ")#");
        if (starts(at, "http") || n == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s/%.*s", PSD_SOURCE_DIR, folder, (int)n, at);
        cr_expect_eq(access(path, R_OK), 0, "%s links to %.*s", page, (int)n, at);
    }
}

Test(pages, links_lead_to_files_that_are_there) { each_page(check_links_of); }

/* [text](#heading) and [text](page.md#heading). */
static void check_headings_of(const char *page)
{
    char *text = read_page(page), folder[300], path[700];
    snprintf(folder, sizeof folder, "%s", page);
    char *slash = strrchr(folder, '/');
    *(slash ? slash : folder) = '\0';
    for (const char *at = text; (at = strstr(at, "]("));) {
        char words[200] = "\n";
        size_t n = 1;
        const size_t n_file = strcspn(at += 2, ")#");
        if (at[n_file] != '#' || starts(at, "http"))
            continue;
        snprintf(path, sizeof path, "%s/%.*s", folder, (int)n_file, at);
        const char *target = n_file ? read_page(path) : text;
        for (const char *c = at + n_file + 1; *c != ')' && n + 1 < sizeof words; c++)
            words[n++] = *c == '-' ? '?' : *c; /* of a heading: letters in lower case, '-' for blanks */
        bool found = false;
        for (const char *line = target; !found && (line = strstr(line, "\n#")); line++) {
            const char *heading = line + 1 + strspn(line + 1, "#") + 1;
            size_t w = 1;
            for (; w < n && *heading != '\n'; heading++)
                if (isalnum((unsigned char)*heading) || *heading == ' ' || *heading == '-') {
                    if (tolower((unsigned char)*heading) != words[w] && words[w] != '?')
                        break;
                    w++;
                }
            found = w == n && *heading == '\n';
        }
        cr_expect(found, "%s links to no heading: %.*s", page, (int)strcspn(at, ")"), at);
    }
}

Test(pages, links_to_headings_lead_to_headings_that_are_there) { each_page(check_headings_of); }

static void check_files_of(const char *page)
{
    static const char *const roots[] = { "common/", "proto/", "server/", "worker/", "deploy/", "tests/", "docs/" };
    char *rest = read_page(page), *word;
    /* Every other piece between backticks is code. */
    for (bool code = false; (word = strsep(&rest, "`")); code = !code) {
        bool named = code && !strpbrk(word, " \n=*<");
        for (size_t r = 0; named && r < sizeof roots / sizeof *roots; r++) {
            char path[512];
            struct stat facts;
            snprintf(path, sizeof path, "%s/%s", PSD_SOURCE_DIR, word);
            if (starts(word, roots[r]))
                cr_expect_eq(stat(path, &facts), 0, "%s names %s", page, word);
        }
    }
}

Test(pages, files_that_pages_name_are_there) { each_page(check_files_of); }

Test(pages, names_in_the_architecture_are_in_the_code)
{
    char *rest = read_page("ARCHITECTURE.md"), *word, command[256];
    unsigned n = 0;
    for (bool code = false; (word = strsep(&rest, "`")); code = !code) {
        if (!code || !strchr(word, '_') || strspn(word, "abcdefghijklmnopqrstuvwxyz_0123456789") != strlen(word))
            continue;
        snprintf(command, sizeof command, "grep -rqw %s common proto server worker deploy", word);
        cr_expect_eq(run(command), 0, "ARCHITECTURE.md names %s", word);
        n++;
    }
    cr_expect_geq(n, 30);
}

/* Whether a source defines the name: a function with its body, a type, a macro. For a header, it is enough to contain the name. */
static bool defines(const char *text, const char *name, bool is_header)
{
    const size_t n = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at += n) {
        const char *line = at, *after = at + n;
        if ((at > text && is_name(at[-1])) || is_name(*after))
            continue;
        while (line > text && line[-1] != '\n')
            line--;
        if (is_header || starts(line, "#define ") || starts(line, "} "))
            return true;
        if (*after == '(' && isalpha((unsigned char)*line) && after[strcspn(after, ";{")] == '{')
            return true;
        if (at > text + 6 && (starts(at - 7, "struct ") || starts(at - 5, "enum ")) && starts(after, " {"))
            return true;
    }
    return false;
}

Test(pages, a_function_that_the_architecture_names_with_a_file_is_defined_there)
{
    static const char *const between[] = { " (", ", ", " in " };
    char *piece[4096], *rest = read_page("ARCHITECTURE.md");
    size_t n = 0;
    unsigned checked = 0;
    while ((piece[n] = strsep(&rest, "`")) && n + 1 < sizeof piece / sizeof *piece)
        n++;
    for (size_t i = 1; i + 2 < n; i += 2) { /* every other piece is code */
        const char *name = piece[i], *file = piece[i + 2];
        const size_t length = strlen(file);
        bool names = length > 2 && strchr(file, '/') && (!strcmp(file + length - 2, ".c") || !strcmp(file + length - 2, ".h"));
        names &= strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789") == strlen(name);
        bool joined = false;
        for (size_t b = 0; b < sizeof between / sizeof *between; b++)
            joined |= !strcmp(piece[i + 1], between[b]) || (*piece[i + 1] == *between[b] && !strcmp(piece[i + 1] + 1, "\n"));
        if (!names || !joined)
            continue;
        cr_expect(defines(read_page(file), name, file[length - 1] == 'h'), "%s does not define %s, as ARCHITECTURE.md says", file,
                  name);
        checked++;
    }
    cr_expect_geq(checked, 60, "%u", checked);
}

/* ---- the example in C ---- */

static char directory[] = "/tmp/test_pages_XXXXXX";

/* Start a server for job "line" and two workers; its process id, and its address in `address`. */
static pid_t start_server(char address[128])
{
    int out[2];
    cr_assert_eq(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], 1);
        close(out[0]);
        execl(PSD_BIN_DIR "/psd", "psd", "--insecure", "--job=line", "--workers-min=2", "--optimizer=sgd(lr=0.1)",
              "--listen=tcp://127.0.0.1:0", "--status-listen=none", "--log-level=error", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");
    cr_assert_eq(fscanf(lines, "psd ready shard=0/1 data=%127s", address), 1);
    fclose(lines);
    return pid;
}

Test(pages, the_library_pages_example_in_c_compiles_and_trains)
{
    const char *at = read_page("docs/library.md");
    char path[128], command[1024], address[128];
    char *source = next_block(&at, "c");
    cr_assert_not_null(source);
    cr_assert_not_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/line.c", directory);
    FILE *file = fopen(path, "w");
    fputs(source, file);
    fclose(file);
    free(source);
    snprintf(command, sizeof command,
             PSD_CC " -std=c11 -Wall -Wextra -Werror %s -Iworker -o %s/line %s -L%s -lpsdworker -Wl,-rpath,%s",
             *PSD_CC_SANITIZE ? "-fsanitize=" PSD_CC_SANITIZE : "", directory, path, PSD_LIBRARY_DIR, PSD_LIBRARY_DIR);
    cr_assert_eq(run(command), 0, "%s", output);

    pid_t server = start_server(address);
    snprintf(command, sizeof command, "(%s/line %s & %s/line %s; wait)", directory, address, directory, address);
    cr_expect_eq(run(command), 0, "%s", output);
    cr_expect_str_eq(output, "y = 3.000 x -1.000 \ny = 3.000 x -1.000 \n");
    int status = -1;
    cr_assert_eq(waitpid(server, &status, 0), server);
    cr_expect_eq(status, 0, "the server ends by itself, with 0");
    snprintf(command, sizeof command, "rm -r %s", directory);
    cr_expect_eq(run(command), 0);
}

/* ---- tables ---- */

static char *markdown(void)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_option_markdown(out);
    fclose(out);
    return text;
}

Test(pages, the_page_of_options_is_the_option_table)
{
    char *table = markdown();
    cr_expect_not_null(strstr(read_page("docs/options.md"), table), "put this into docs/options.md:\n%s", table);
    free(table);
}

Test(pages, the_readmes_job_file_is_the_quickstarts)
{
    char block[4096];
    snprintf(block, sizeof block, "```yaml\n%s```", read_page("deploy/examples/glyphs.yaml"));
    cr_expect_not_null(strstr(read_page("README.md"), block));
}

Test(pages, the_page_of_optimizers_is_what_psdctl_prints)
{
    char row[64];
    size_t n = 0;
    while (psd_optimizer_at(n))
        cr_expect_not_null(psd_optimizer_at(n++)->advice);
    snprintf(row, sizeof row, "| %zu optimizers, and Lookahead", n);
    cr_expect_not_null(strstr(read_page("README.md"), row), "%s", row);
    cr_assert_eq(run("psdctl optimizers --markdown"), 0);
    cr_expect_not_null(strstr(read_page("docs/optimizers.md"), output), "put this into docs/optimizers.md:\n%s", output);
}

Test(pages, the_page_of_operating_has_every_exit_code)
{
    const char *page = read_page("docs/operate.md");
    char row[32];
#define X(name, value, text, exit_code)                                                                                            \
    snprintf(row, sizeof row, "\n| %d | ", exit_code);                                                                             \
    cr_expect(strstr(page, row), "the page lacks %d", exit_code);
    PSD_ERRORS(X)
#undef X
}

Test(pages, the_protocols_page_names_every_message_and_refusal)
{
    const char *page = read_page("proto/PROTOCOL.md");
    char row[96];
#define X(name, number, ...)                                                                                                       \
    snprintf(row, sizeof row, "\n| %s (%d) | ", #name, number);                                                                    \
    cr_expect_not_null(strstr(page, row), "the page lacks %s", row);
    PSD_MESSAGES(X)
#undef X
#define X(name, number, text, end)                                                                                                 \
    snprintf(row, sizeof row, "\n| %d | %s | ", number, text);                                                                     \
    cr_expect_not_null(strstr(page, row), "the page lacks %s", row);
    PSD_REFUSALS(X)
#undef X
    snprintf(row, sizeof row, "# The psd protocol, version %d\n", PSD_PROTOCOL);
    cr_expect_not_null(strstr(page, row));
}

/* Whether the page has these bytes as a block of hexadecimal, 16 in a row. */
static void expect_bytes(const char *page, const void *bytes, size_t n)
{
    char block[4096] = "```\n";
    for (size_t i = 0; i < n; i++)
        snprintf(block + strlen(block), sizeof block - strlen(block), "%02x%c", ((const uint8_t *)bytes)[i],
                 i % 16 == 15 || i + 1 == n ? '\n' : ' ');
    cr_expect_not_null(strstr(page, strcat(block, "```")), "the page lacks\n%s", block);
}

Test(pages, the_protocols_exchange_in_bytes_is_what_the_program_writes)
{
    const char *page = read_page("proto/PROTOCOL.md");
    const float gradient[] = { 1, -2 }, weights[] = { 0.5f, 0.25f };
    const psd_msg_t base = { .protocol = PSD_PROTOCOL,
                             .job = 0x1122334455667788,
                             .map_id = 1,
                             .worker = 1,
                             .incarnation = 1,
                             .clock = 17,
                             .parts = 1,
                             .dtype = PSD_DTYPE_F32,
                             .codec = PSD_CODEC_F32,
                             .n_elements = 2 };
    uint8_t frame[PSD_MAX_FRAME_HEADER];
    psd_msg_t push = base, answer = base;
    push.kind = PSD_MSG_PUSH;
    push.view_id = 17;
    push.base_version = 16;
    push.samples = 32;
    push.loss = 0.25;
    push.checksum = psd_crc32c(gradient, sizeof gradient);
    answer.kind = PSD_MSG_WEIGHTS;
    answer.view_id = 18;
    answer.version = 17;
    answer.shard_epoch = 1;
    answer.rank = 1;
    answer.world = 2;
    answer.lr = 0.25;
    answer.checksum = psd_crc32c(weights, sizeof weights);
    expect_bytes(page, frame, psd_msg_seal(&push, gradient, sizeof gradient, frame));
    expect_bytes(page, gradient, sizeof gradient);
    expect_bytes(page, frame, psd_msg_seal(&answer, weights, sizeof weights, frame));
    expect_bytes(page, weights, sizeof weights);
}

/* ---- arrows ---- */

typedef void on_file_fn(const char *file);

/* Remove the comments from the text, in place. */
static char *strip_comments(char *text)
{
    for (char *at = text, *end; (at = strstr(at, "/*")) && (end = strstr(at, "*/"));)
        memmove(at, end + 2, strlen(end + 2) + 1);
    return text;
}

/* Every source and header below `folder`. */
static void walk(const char *folder, on_file_fn *check)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", PSD_SOURCE_DIR, folder);
    DIR *dir = opendir(path);
    cr_assert_not_null(dir, "%s", path);
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_type == DT_DIR && *entry->d_name != '.')
            walk(path, check);
        else if (dot && (!strcmp(dot, ".c") || !strcmp(dot, ".h")))
            check(path);
    }
    closedir(dir);
}

/* These are libraries because psdctl reads the files that servers write, asks which settings they refuse, what a mode means and
 * which way a metric is better, trains in one process what a cluster did, predicts, checks encodings, and reads other programs'
 * arrays. */
static bool may_all(const char *file, const char *included)
{
    static const char *const libraries[] = { "server/checkpoint/checkpoint.h",
                                             "server/core/mode.h",
                                             "server/settings.h",
                                             "worker/encoding.h",
                                             "worker/npz.h",
                                             "worker/predictor.h",
                                             "worker/reference.h",
                                             "worker/score.h",
                                             "worker/setup.h",
                                             "worker/slurp.h",
                                             "worker/statefile.h",
                                             "worker/trace.h",
                                             "worker/weights.h" };
    bool may = false;
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++)
        may |= starts(file, "deploy/") && !strcmp(included, libraries[i]);
    return may;
}

/* The library that programs link, but for its public header. */
static bool is_of_library(const char *file)
{
    return starts(file, "worker/session.") || starts(file, "worker/feedback.") || starts(file, "worker/handover.") ||
           starts(file, "worker/driver.") || starts(file, "worker/client.") || starts(file, "worker/follower.") ||
           starts(file, "worker/reading.") || starts(file, "worker/caller.");
}

static void check_arrow(const char *file, const char *included)
{
    static const char *const ours[] = { "server/", "worker/", "psd/", "proto/", "common/", "deploy/", "tests/" };
    static const struct {
        const char *from, *to; /* a folder, and what it may include of ours, between spaces */
    } arrows[] = {
        { "common/", " common/ " },
        { "proto/", " common/ proto/ " },
        { "server/", " common/ proto/ server/ " },
        { "worker/", " common/ proto/ worker/ psd/ " },
        { "deploy/", " common/ proto/ deploy/ psd/ " },
    };
    for (size_t o = 0; o < sizeof ours / sizeof *ours; o++)
        for (size_t a = 0; a < sizeof arrows / sizeof *arrows; a++)
            if (starts(included, ours[o]) && starts(file, arrows[a].from) && !may_all(file, included))
                cr_expect(strstr(arrows[a].to, ours[o]), "%s includes %s", file, included);
    /* The core knows nothing of the shell around it, not even its types. */
    if (starts(file, "server/core/") && starts(included, "server/"))
        cr_expect(starts(included, "server/core/"), "%s includes %s", file, included);
    /* The trainer knows the servers only through the public header. */
    if (starts(file, "worker/") && !is_of_library(file))
        cr_expect(!starts(included, "proto/") && !is_of_library(included), "%s includes %s", file, included);
}

static void check_arrows_of(const char *file)
{
    char *text = read_page(file), *rest = text, *line, included[256];
    while ((line = strsep(&rest, "\n")))
        if (sscanf(line, " # include %*1[<\"]%255[^>\"]", included) == 1)
            check_arrow(file, included);
}

static void walk_all(on_file_fn *check)
{
    static const char *const folders[] = { "common", "proto", "server", "worker", "deploy" };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        walk(folders[i], check);
}

Test(pages, includes_point_where_the_layers_say) { walk_all(check_arrows_of); }

/* A row of the table in ARCHITECTURE.md: how to recognise a library, and the files and folders that may use it. */
typedef struct meeting {
    char *mark[8], *where[16];
    bool met[16];
    size_t n_marks, n_where;
} meeting_t;
static meeting_t meeting[32];
static size_t n_meetings;

/* Words between backticks of one cell. */
static size_t take_codes(char *cell, char **word, size_t most)
{
    size_t n = 0;
    char *piece;
    for (bool code = false; (piece = strsep(&cell, "`")); code = !code)
        if (code) {
            cr_assert_lt(n, most, "%s", piece);
            word[n++] = piece;
        }
    return n;
}

static void read_meetings(void)
{
    char *rest = strstr(read_page("ARCHITECTURE.md"), "\n| what | known by | where |\n"), *line;
    cr_assert_not_null(rest, "ARCHITECTURE.md has the table of libraries");
    for (int heads = 0; heads < 3; heads++) /* with the line end before them */
        strsep(&rest, "\n");
    while ((line = strsep(&rest, "\n")) && *line == '|') {
        meeting_t *m = &meeting[n_meetings++];
        cr_assert_leq(n_meetings, sizeof meeting / sizeof *meeting);
        strsep(&line, "|");
        strsep(&line, "|");
        m->n_marks = take_codes(strsep(&line, "|"), m->mark, 8);
        m->n_where = take_codes(strsep(&line, "|"), m->where, 16);
        cr_assert(m->n_marks && m->n_where);
    }
    cr_assert_geq(n_meetings, 8);
}

/* "uv_*" is the beginning of a name, "open(" a call, "zmq.h" the end of what is included, "curl/" its beginning. */
static bool has_mark(const char *text, const char *mark)
{
    const size_t n = strcspn(mark, "*");
    const bool is_name_mark = mark[n] == '*' || mark[n - 1] == '(';
    for (const char *at = text; (at = strstr(at, "#include")) && !is_name_mark; at++) {
        const size_t length = strcspn(at, "\n");
        const char *found = memmem(at, length, mark, n);
        if (found && !is_name(found[-1]))
            return true;
    }
    for (const char *at = text; is_name_mark && (at = memmem(at, strlen(at), mark, n)); at++)
        if (at == text || !is_name(at[-1]))
            return true;
    return false;
}

/* Whether `file` is the place, lies in it, or is its header. */
static bool is_at(const char *file, const char *place)
{
    const size_t n = strlen(place);
    return place[n - 1] == '/' ? starts(file, place) : strlen(file) == n && strncmp(file, place, n - 1) == 0;
}

static void check_meetings_of(const char *file)
{
    const char *text = read_page(file);
    for (meeting_t *m = meeting; m < meeting + n_meetings; m++)
        for (size_t i = 0; i < m->n_marks; i++) {
            bool may = !has_mark(text, m->mark[i]);
            const bool is_free = may;
            for (size_t k = 0; k < m->n_where && !is_free; k++)
                if (is_at(file, m->where[k]))
                    may = m->met[k] = true;
            cr_expect(may, "%s has %s; ARCHITECTURE.md says where that may be", file, m->mark[i]);
        }
}

Test(pages, libraries_and_files_are_met_where_the_architecture_says)
{
    read_meetings();
    walk_all(check_meetings_of);
    for (const meeting_t *m = meeting; m < meeting + n_meetings; m++)
        for (size_t k = 0; k < m->n_where; k++)
            cr_expect(m->met[k], "ARCHITECTURE.md: %s is not met in %s", m->mark[0], m->where[k]);
}

/* Only the modes' own folder and the options name the modes: all other code asks a mode's row. */
static void check_that_no_mode_is_named(const char *file)
{
    const char *text = strip_comments(read_page(file));
    if (!starts(file, "server/core/modes/"))
        cr_expect(!strstr(text, "\"bsp\"") && !strstr(text, "\"asp\""), "%s names a mode: ask its row (server/core/mode.h)", file);
}

Test(pages, no_source_but_the_modes_own_knows_a_mode_by_its_name) { walk_all(check_that_no_mode_is_named); }
