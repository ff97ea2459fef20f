#include "worker/views.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/array.h"
#include "common/memory/channel.h"

/* Pages of an array that show a server's memory. A run is described at its first page. */
typedef struct page {
    uint32_t run;       /* the first page of the run to which this one belongs, plus 1; 0: the page is the array's own */
    uint32_t n;         /* pages of the run that begins here */
    const void *source; /* what it shows */
    psd_buf_t *payload; /* held; NULL: let go */
} page_t;

typedef struct view {
    unsigned char *at;
    size_t n_floats, n_pages;
    page_t *page;
    uint32_t *run; /* first pages of the runs, in no order */
    size_t n_runs;
} view_t;

struct psd_views {
    pthread_mutex_t lock;
    size_t page_bytes;
    view_t *view;
    size_t n, room;
};

/* ---- one array ---- */

static void let_go(view_t *self)
{
    for (size_t i = 0; i < self->n_runs; i++)
        psd_buf_unref(&self->page[self->run[i]].payload);
}

static void forget(view_t *self, uint32_t first)
{
    page_t *run = &self->page[first];
    const uint32_t n = run->n;
    psd_buf_unref(&run->payload);
    for (uint32_t i = 0; i < n; i++)
        self->page[first + i] = (page_t){ 0 };
    size_t k = 0;
    while (self->run[k] != first)
        k++;
    self->run[k] = self->run[--self->n_runs];
}

/* The pages get their own memory, filled with what they show; it replaces the server's in one call, so that a reader sees the same
 * values throughout. */
static void own_run(view_t *self, uint32_t first, size_t page_bytes)
{
    const size_t n_bytes = self->page[first].n * page_bytes;
    unsigned char *at = self->at + first * page_bytes;
    void *own = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(own != MAP_FAILED && "no memory for weights that lie in a server's memory");
    memcpy(own, at, n_bytes);
    void *moved = mremap(own, n_bytes, n_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at);
    assert(moved == at && "anonymous memory can be moved");
    (void)moved;
    forget(self, first);
}

static void own_pages(view_t *self, size_t first, size_t n, size_t page_bytes)
{
    for (size_t i = first; i < first + n; i++)
        if (self->page[i].run)
            own_run(self, self->page[i].run - 1, page_bytes);
}

/* Show `n` pages at `source` from page `first` on. mremap of no bytes makes a second mapping of shared memory. */
static bool show(view_t *self, size_t first, size_t n, const void *source, size_t page_bytes)
{
    own_pages(self, first, n, page_bytes);
    void *at = self->at + first * page_bytes;
    if (mremap((void *)(uintptr_t)source, 0, n * page_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED)
        return false;
    for (size_t i = 0; i < n; i++)
        self->page[first + i].run = (uint32_t)first + 1;
    self->page[first].n = (uint32_t)n;
    self->page[first].source = source;
    self->run[self->n_runs++] = (uint32_t)first;
    return true;
}

static bool place(view_t *self, size_t offset, psd_buf_t *payload, const float *from, size_t n_bytes, size_t page_bytes)
{
    const size_t first = offset / page_bytes, n = n_bytes / page_bytes, rest = n_bytes % page_bytes;
    page_t *page = &self->page[first];
    const bool fits = n && offset % page_bytes == 0 && (uintptr_t)from % page_bytes == 0 && psd_channel_may_keep(payload);
    const bool is_shown = fits && page->run == first + 1 && page->source == from && page->n == n;
    if (!is_shown && !(fits && show(self, first, n, from, page_bytes))) {
        own_pages(self, first, (offset + n_bytes - 1) / page_bytes - first + 1, page_bytes);
        return false;
    }
    psd_buf_ref(payload); /* first: it may be the one that is held */
    psd_buf_unref(&page->payload);
    page->payload = payload;
    if (rest)
        own_pages(self, first + n, 1, page_bytes);
    memcpy(self->at + offset + n * page_bytes, (const unsigned char *)from + n * page_bytes, rest);
    return true;
}

static void clear(view_t *self, size_t page_bytes)
{
    let_go(self);
    if (self->at)
        munmap(self->at, self->n_pages * page_bytes);
    free(self->page);
    free(self->run);
}

/* ---- all ---- */

psd_views_t *psd_views_new(void)
{
    psd_views_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    pthread_mutex_init(&self->lock, NULL);
    self->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    return self;
}

void psd_views_destroy(psd_views_t **self_p)
{
    psd_views_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (size_t i = 0; i < self->n; i++)
        clear(&self->view[i], self->page_bytes);
    free(self->view);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

static bool make(view_t *out, size_t n, size_t page_bytes)
{
    *out = (view_t){ .n_floats = n, .n_pages = (n * sizeof(float) + page_bytes - 1) / page_bytes };
    void *at = out->n_pages < UINT32_MAX
                   ? mmap(NULL, out->n_pages * page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                   : MAP_FAILED;
    out->at = at == MAP_FAILED ? NULL : at;
    out->page = calloc(out->n_pages, sizeof *out->page);
    out->run = calloc(out->n_pages, sizeof *out->run);
    if (out->at && out->page && out->run)
        return true;
    clear(out, page_bytes);
    return false;
}

float *psd_views_take(psd_views_t *self, size_t n)
{
    view_t view;
    n = n ? n : 1;
    if (n > SIZE_MAX / 2 / sizeof(float) || !make(&view, n, self->page_bytes))
        return NULL;
    pthread_mutex_lock(&self->lock);
    const bool ok = psd_array_grow(&self->view, &self->room, self->n + 1, sizeof *self->view, NULL) == PSD_OK;
    if (ok)
        self->view[self->n++] = view;
    pthread_mutex_unlock(&self->lock);
    if (!ok)
        clear(&view, self->page_bytes);
    return ok ? (float *)(void *)view.at : NULL;
}

/* The array in which `to` lies; NULL: none. */
static view_t *find(psd_views_t *self, const float *to)
{
    for (size_t i = 0; i < self->n; i++)
        if ((uintptr_t)to - (uintptr_t)self->view[i].at < self->view[i].n_floats * sizeof *to)
            return &self->view[i];
    return NULL;
}

void psd_views_give_back(psd_views_t *self, const float *array)
{
    pthread_mutex_lock(&self->lock);
    view_t *view = find(self, array);
    assert(view && (const void *)view->at == array && "an array of these");
    clear(view, self->page_bytes);
    *view = self->view[--self->n];
    pthread_mutex_unlock(&self->lock);
}

size_t psd_views_size(psd_views_t *self, const float *array)
{
    pthread_mutex_lock(&self->lock);
    const view_t *view = find(self, array);
    const size_t n = view && (const void *)view->at == array ? view->n_floats : 0;
    pthread_mutex_unlock(&self->lock);
    return n;
}

bool psd_views_has(psd_views_t *self, const float *to)
{
    pthread_mutex_lock(&self->lock);
    const bool has = find(self, to);
    pthread_mutex_unlock(&self->lock);
    return has;
}

bool psd_views_place(psd_views_t *self, float *to, psd_buf_t *payload, const float *from, size_t n)
{
    pthread_mutex_lock(&self->lock);
    view_t *view = find(self, to);
    const bool placed =
        view && place(view, (size_t)((unsigned char *)to - view->at), payload, from, n * sizeof *from, self->page_bytes);
    pthread_mutex_unlock(&self->lock);
    return placed;
}

bool psd_views_are_placed(psd_views_t *self)
{
    bool any = false;
    pthread_mutex_lock(&self->lock);
    for (size_t i = 0; i < self->n; i++)
        any |= self->view[i].n_runs > 0;
    pthread_mutex_unlock(&self->lock);
    return any;
}

void psd_views_let_go(psd_views_t *self)
{
    pthread_mutex_lock(&self->lock);
    for (size_t i = 0; i < self->n; i++)
        let_go(&self->view[i]);
    pthread_mutex_unlock(&self->lock);
}

void psd_views_settle(psd_views_t *self)
{
    pthread_mutex_lock(&self->lock);
    for (size_t i = 0; i < self->n; i++)
        while (self->view[i].n_runs)
            own_run(&self->view[i], self->view[i].run[0], self->page_bytes);
    pthread_mutex_unlock(&self->lock);
}
