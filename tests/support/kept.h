/* kept.h - whole texts that a test compares with a file of the sources, so that a change of any word of them shows. With
 * PSD_WRITE_PAGES=1 the test writes the file anew; read the difference before you commit it. */
#pragma once

/* The file, whose path counts from the top of the sources; "" when there is none. The caller frees it. */
char *kept_read(const char *path);

/* NULL if the file holds `text`; otherwise the first line that differs, and below what line it stands that begins with ">" or "==".
 * Valid until the next call. */
const char *kept_difference(const char *path, const char *text);

/* In a test: expect that the file holds it. */
#define expect_kept(path, text)                                                                                                    \
    do {                                                                                                                           \
        const char *difference_ = kept_difference(path, text);                                                                     \
        cr_assert(!difference_, "%s", difference_ ? difference_ : "");                                                             \
    } while (0)
