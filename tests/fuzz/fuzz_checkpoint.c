/* fuzz_checkpoint.c - any bytes as the header of a safetensors file, as that of a shard's file, and as a manifest: refused with a
 * sentence, or in bounds. The first byte chooses which. CRCs are recomputed first, to get past their check; an accepted manifest
 * prints to one that reads the same. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/checkpoint/manifest.h"
#include "server/checkpoint/seal.h"
#include "server/checkpoint/shardfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_failure(int rc, const psd_err_t *err)
{
    assert(rc == PSD_OK || ((rc == PSD_EDATA || rc == PSD_ENOMEM) && err->code == rc && *err->text));
}

static void check_bounds(const psd_safetensors_t *st)
{
    uint64_t at = 0;
    for (size_t i = 0; i < st->n_entries; at = st->entry[i++].end)
        assert(st->entry[i].begin == at && st->entry[i].end >= at && st->entry[i].n_dims <= PSD_ENTRY_DIMS);
    assert(at == st->n_data);
    for (size_t i = 0; i < st->n_notes; i++)
        assert(st->note[i].key && st->note[i].value);
}

/* A file's header; its length field is corrected, and the first two bytes give the length of the data. */
static psd_safetensors_t as_file(const uint8_t *data, size_t size)
{
    psd_safetensors_t st = { .fd = -1, .path = strdup("f") };
    st.n_data = size > 1 ? (uint64_t)(data[0] | data[1] << 8) : 0;
    size -= size > 1 ? 2 : size;
    st.n_bytes = size + 8;
    st.bytes = malloc(st.n_bytes);
    assert(st.path && st.bytes);
    memcpy(st.bytes, &(uint64_t){ size }, 8);
    memcpy(st.bytes + 8, data + 2, size);
    return st;
}

static void check_safetensors(const uint8_t *data, size_t size)
{
    psd_err_t err = { 0 };
    psd_safetensors_t st = as_file(data, size);
    const int rc = psd_safetensors_parse(&st, &err);
    check_failure(rc, &err);
    if (rc == PSD_OK)
        check_bounds(&st);
    psd_safetensors_close(&st);
}

/* A model with the names of the corpus; finds the chunk of each group. */
static void check_chunks(const psd_shardfile_t *file)
{
    static psd_tensor_desc_t tensor[2] = { { .name = "a", .n_dims = 1, .dim = { 1100 }, .n_elements = 1100 },
                                           { .name = "b[0]", .n_dims = 1, .dim = { 3 }, .n_elements = 3 } };
    const psd_tensor_list_t model = { .n = 2, .tensor = tensor };
    psd_partition_t map;
    psd_err_t err = { 0 };
    uint32_t hint = 0;
    assert(psd_partition_make(&map, (const uint64_t[]){ 1100, 3 }, 2, 1, 1, NULL) == PSD_OK);
    for (uint32_t i = 0; i < file->n_parts; i++) {
        const psd_chunk_t *c = psd_shardfile_chunk(file, i, &model, &map, &hint, &err);
        assert(c ? c >= map.chunk && c < map.chunk + map.n_chunks : err.code == PSD_EDATA);
        for (uint32_t a = file->first[i]; c && a < file->first[i + 1]; a++) {
            const psd_entry_t *entry = &file->st.entry[a];
            assert(entry->end - entry->begin == c->n * sizeof(float));
        }
    }
    psd_partition_clear(&map);
}

static void check_shardfile(const uint8_t *data, size_t size)
{
    static const char opening[] = "{\"__metadata__\":{\"psd.crc\":\"";
    psd_err_t err = { 0 };
    psd_shardfile_t file = { .st = as_file(data, size) };
    if (size > 2 + sizeof opening + 8 && memcmp(file.st.bytes + 8, opening, sizeof opening - 1) == 0)
        psd_seal((char *)file.st.bytes, file.st.n_bytes, (char *)file.st.bytes + 8 + sizeof opening - 1);
    const int rc = psd_shardfile_parse(&file, false, &err);
    check_failure(rc, &err);
    if (rc == PSD_OK) {
        check_bounds(&file.st);
        assert(file.facts.shard < file.facts.n_shards && file.facts.n_shards <= PSD_MAX_SERVERS);
        for (uint32_t i = 1; i < file.facts.n_applied; i++)
            assert(file.facts.applied[i - 1].worker < file.facts.applied[i].worker);
        check_chunks(&file);
    }
    psd_shardfile_close(&file);
}

static void check_manifest(const uint8_t *data, size_t size)
{
    psd_err_t err = { 0 };
    psd_manifest_t first, second;
    char *text = malloc(size + 1); /* of exactly that size, so that a read past the end is detected */
    assert(text);
    memcpy(text, data, size);
    psd_manifest_seal(text, size);
    const int rc = psd_manifest_parse(&first, text, size, 42, "f", &err);
    check_failure(rc, &err);
    if (rc == PSD_OK) {
        size_t n, again;
        char *printed = psd_manifest_print(&first, &n, &err);
        assert(printed && psd_manifest_parse(&second, printed, n, 42, "f", &err) == PSD_OK);
        char *twice = psd_manifest_print(&second, &again, &err);
        assert(twice && n == again && memcmp(printed, twice, n) == 0);
        psd_manifest_clear(&second);
        free(printed);
        free(twice);
    }
    psd_manifest_clear(&first);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    void (*const check[])(const uint8_t *, size_t) = { check_safetensors, check_shardfile, check_manifest };
    check[data[0] % 3](data + 1, size - 1);
    return 0;
}
