/* bench_message.c - measures the cost of a header: the PUSH of a 1 MiB chunk, encoded and decoded. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "proto/message.h"

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(void)
{
    enum { ROUNDS = 1000000 };
    static uint8_t chunk[1 << 20];
    const psd_msg_t push = { .kind = PSD_MSG_PUSH,
                             .protocol = PSD_PROTOCOL,
                             .job = 0x1234567890abcdef,
                             .view_id = 3,
                             .map_id = 1,
                             .worker = 2,
                             .incarnation = 1,
                             .clock = 123456,
                             .base_version = 123455,
                             .shard = 1,
                             .shard_epoch = 1,
                             .part = 17,
                             .parts = 96,
                             .samples = 64,
                             .loss = 0.25,
                             .norm2 = 1.5,
                             .dtype = PSD_DTYPE_F32,
                             .codec = PSD_CODEC_F32,
                             .checksum = 0xdeadbeef,
                             .n_elements = PSD_MAX_CHUNK };
    uint8_t frame[PSD_MAX_HEADER];
    size_t n_bytes = 0;
    double start = now_ns();
    for (int i = 0; i < ROUNDS; i++)
        n_bytes = psd_msg_encode(&push, frame);
    double encode_ns = (now_ns() - start) / ROUNDS;

    psd_msg_t msg;
    int refused = 0;
    start = now_ns();
    for (int i = 0; i < ROUNDS; i++)
        refused += psd_msg_decode(&msg, frame, n_bytes, sizeof chunk, NULL) != PSD_OK;
    double decode_ns = (now_ns() - start) / ROUNDS;

    start = now_ns();
    uint32_t sum = 0;
    for (int i = 0; i < 1000; i++) {
        chunk[0] = (uint8_t)i;
        sum ^= psd_crc32c(chunk, sizeof chunk);
    }
    double crc_ns = (now_ns() - start) / 1000;
    printf("header_bytes=%zu encode_ns=%.0f decode_ns=%.0f refused=%d crc32c_gb_per_s=%.1f crc=%08" PRIx32 "\n", n_bytes, encode_ns,
           decode_ns, refused, (double)sizeof chunk / crc_ns, sum);
    return refused != 0;
}
