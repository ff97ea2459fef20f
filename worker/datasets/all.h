/* all.h - the table of readers: a row here and a file of that name beside it. */
#define PSD_READERS(X)                                                                                       \
    X(idx)                                                                                                   \
    X(libsvm)                                                                                                \
    X(csv)                                                                                                   \
    X(glyphs)
