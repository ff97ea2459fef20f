#include "common/system/stdfds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"

static void fill(int mode_of_stdout)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) /* open returns the lowest closed descriptor */
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDOUT_FILENO ? mode_of_stdout : O_RDWR) != fd)
            return;
}

void psd_stdfds_open(void) { fill(O_RDWR); }

void psd_stdfds_open_strict(void) { fill(O_RDONLY); }

int psd_stdfds_end(const char *name, int code)
{
    errno = 0;
    const int failed = fflush(stdout) != 0 || ferror(stdout);
    if (!failed || code)
        return code;
    fprintf(stderr, "%s: cannot write to standard output%s%s\n", name, errno ? ": " : "", errno ? strerror(errno) : "");
    return psd_err_exit_code(PSD_EIO);
}
