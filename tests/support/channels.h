/* channels.h - two connected channels in one process, each with its own mappings of the other's memory. */
#pragma once

#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/memory/channel.h"

typedef struct channels {
    psd_arena_t *arena[2];
    psd_channel_t *end[2];
    psd_board_t *board[2]; /* as its own end writes it */
    int fd[2];             /* each end's of the socket; the channels own them */
} channels_t;

/* Each maps at most `most_bytes` of the other's memory, and its arena has as many. */
static inline void channels_open(channels_t *self, size_t most_bytes)
{
    psd_segment_t mine[2], theirs[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, self->fd), 0);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(psd_segment_make(&mine[i], psd_board_bytes(), NULL), PSD_OK);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(psd_segment_map(&theirs[i], dup(mine[1 - i].fd), psd_board_bytes(), NULL), PSD_OK);
    for (int i = 0; i < 2; i++) {
        self->arena[i] = psd_arena_new(most_bytes, NULL);
        self->board[i] = (psd_board_t *)mine[i].at;
        self->end[i] = psd_channel_new(self->fd[i], &mine[i], &theirs[i], self->arena[i], most_bytes, NULL);
        cr_assert_not_null(self->end[i]);
    }
}
