/* volume.h - a disk of a campaign's own: mounts that nobody else sees, and a way to fill one. */
#pragma once

#include <stdbool.h>

/* Mounts of this process are from now on nobody else's, and vanish with it. NULL, or why that is not permitted. */
const char *volume_own_mounts(void);

/* Mount a tmpfs with room for so many bytes ("4m") over the directory; false when that is not permitted. */
bool volume_mount_tmpfs(const char *directory, const char *size);

/* Write to a file in the directory until nothing more goes in, again and again if you like; false when the file
 * cannot be opened. */
bool volume_fill(const char *directory);

/* Remove that file; false when there is none. */
bool volume_free(const char *directory);
