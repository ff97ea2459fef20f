/* volume.h - a private disk for a campaign: mounts that no other process sees, and a way to fill one. */
#pragma once

#include <stdbool.h>

/* Make mounts of this process private from now on; they vanish with it. NULL, or the reason why that is not permitted. */
const char *volume_own_mounts(void);

/* Mount a tmpfs with room for `size` bytes ("4m") over the directory; false when that is not permitted. */
bool volume_mount_tmpfs(const char *directory, const char *size);

/* Write to a file in the directory until no more fits; may be repeated; false when the file cannot be opened. */
bool volume_fill(const char *directory);

/* Remove that file; false when there is none. */
bool volume_free(const char *directory);
