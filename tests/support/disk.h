/* disk.h - a disk that loses data that was not flushed. Where a program is linked with --wrap for the calls that change files
 * (tests/CMakeLists.txt), they come here: each is carried out, and recorded while disk_record is on. A power cut can then be made
 * after any of them: data that was not flushed is lost or kept by chance, names by directory, writes by file, whole or in part.
 * Calls can be made to fail, and flushes to lie. One disk per process, one thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum disk_call {
    DISK_CREATE,
    DISK_WRITE,
    DISK_SYNC_FILE,
    DISK_RENAME,
    DISK_UNLINK,
    DISK_MKDIR,
    DISK_RMDIR,
    DISK_SYNC_DIR
} disk_call_t;
enum { DISK_HONEST = -1 };

/* Start or stop recording calls. */
void disk_record(bool on);

/* The number of recorded calls; forget them all. */
int disk_calls(void);
void disk_forget(void);

/* An entry that remains after the cut, below the directory of the calls; inode -1 is a directory. */
typedef struct disk_entry {
    char path[128];
    int inode;
} disk_entry_t;

/* Cut the power after `k` calls, with random choices by `seed`: write the remains of directory `from` into directory `to`, which
 * exists and is empty. Flushes of kind `lie` count as never made. The entries are borrowed until the next cut. */
const disk_entry_t *disk_cut(int k, uint64_t seed, int lie, const char *from, const char *to, int *n);

/* Whether the directory that an entry of `from` is in was not lost. */
bool disk_is_reachable(const char *path, const char *from);

/* `path`, which is below `from`, below `to`. */
const char *disk_moved(const char *path, const char *from, const char *to, char *out);

/* Faults of calls from here on. All zero: none. */
typedef struct disk_fault {
    int error;     /* the call reached fails with this; calls that only read never do */
    bool dead;     /* from the call reached on, nothing is done, as if the process had been killed before it */
    bool lies;     /* flushes are not made, but report success */
    uint32_t left; /* calls until it is reached */
} disk_fault_t;
void disk_break(disk_fault_t fault);

/* Remove a directory with all that is in it. */
void disk_remove(const char *dir);
