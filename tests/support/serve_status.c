/* serve_status.c - serve_status FILE : acts as the status endpoint of a server whose document is FILE, whatever is asked for, and
 * prints its address. In the document, @A+B@ stands for A plus B times the number of answers before: a job that goes on. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 1 << 16 };

/* Exits when there is no file, as between two documents of a script: the script writes a new one by renaming. */
static void read_document(const char *path, char *text)
{
    FILE *file = fopen(path, "re");
    if (!file)
        exit(66);
    text[fread(text, 1, MOST - 1, file)] = '\0';
    fclose(file);
}

static void fill_in(FILE *out, const char *text, unsigned n_answers)
{
    for (const char *mark; (mark = strchr(text, '@')); text = mark) {
        char *at;
        const double a = strtod(mark + 1, &at), b = strtod(at, &at);
        fprintf(out, "%.*s%.10g", (int)(mark - text), text, a + b * n_answers);
        mark = at + 1;
    }
    fputs(text, out);
}

static void answer(int fd, const char *path, unsigned n_answers)
{
    static char text[MOST];
    char request[4096] = "", *body = NULL;
    size_t n = 0, n_body = 0;
    for (ssize_t got; !strstr(request, "\r\n\r\n") && n < sizeof request - 1; n += (size_t)got)
        if ((got = read(fd, request + n, sizeof request - 1 - n)) <= 0)
            return;
    read_document(path, text);
    FILE *out = open_memstream(&body, &n_body);
    if (!out)
        exit(71);
    fill_in(out, text, n_answers);
    fclose(out);
    dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", n_body,
            body);
    free(body);
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof at;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc != 2 || bind(listener, (struct sockaddr *)&at, n) || listen(listener, 8) ||
        getsockname(listener, (struct sockaddr *)&at, &n))
        return 64;
    printf("http://127.0.0.1:%u\n", ntohs(at.sin_port));
    fflush(stdout);
    for (unsigned n_answers = 0;; n_answers++) {
        const int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            return 71;
        answer(fd, argv[1], n_answers);
        close(fd);
    }
}
