/* data.h - finds MNIST, agaricus and Criteo's sample for tests: in the folder PSD_DATA, otherwise in ../shared/data beside the
 * sources; if neither exists, the small sets in tests/data, which a script has drawn in the same files and formats. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { DATA_PATH = 200 };

/* The path of a file, "mnist/train-images-idx3-ubyte.gz", or of a folder. Returns `path`. */
const char *data_path(const char *name, char path[DATA_PATH]);

/* The same with a format, "idx:PATH". Returns `spec`. */
const char *data_spec(const char *format, const char *name, char spec[DATA_PATH]);

/* Whether it is a drawn set. */
bool data_is_drawn(const char *name);
