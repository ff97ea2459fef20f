#include "common/stdfds.h"

#include <fcntl.h>
#include <unistd.h>

void psd_stdfds_open(void)
{
    int fd = STDIN_FILENO;
    while (fd >= STDIN_FILENO && fd <= STDERR_FILENO) /* the lowest that is closed is what open gives */
        fd = open("/dev/null", O_RDWR);
    if (fd > STDERR_FILENO)
        close(fd);
}
