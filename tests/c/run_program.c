#define _GNU_SOURCE
/* Run sections of a program on an arena image, with threads, as a device would: no Python, one allocation.
 *
 *     run_program IMAGE OUT THREADS first:last:n:times...
 *
 * IMAGE holds five int64 (bytes of the arena; where in it rows, tensor table, status and barrier lie), then the arena.
 * OUT receives the arena. Calls that could allocate are counted while sections run; "allocations N" is printed.
 * Sections run with rounding upwards set by the caller, which they must neither heed nor change.
 * Exit code 0, or 1 (bad usage or file), or 2 (the caller's rounding was changed), or 3 (a row reported a status, which
 * is printed).
 */
#include "../../deploy/c/edgerev.h"
#include "count_allocations.h"

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { HEADER = 5, MOST_RUNS = 64 };

typedef struct { intptr_t first, last, n, times; } Run;

static int64_t header[HEADER];
static uint8_t *arena;
static Run runs[MOST_RUNS];
static int run_count, thread_count;
static int32_t failed[EDGEREV_MAX_THREADS];
static atomic_int changed;

static pthread_barrier_t gate; /* so that calls are counted while all threads run sections, and only then */

static int yield(void) { return sched_yield(); }

static void *work(void *argument) {
    intptr_t thread = (intptr_t)argument;
    if (fesetround(FE_UPWARD)) atomic_store(&changed, 1);
    pthread_barrier_wait(&gate);
    for (int i = 0; i < run_count; i++)
        for (intptr_t time = 0; time < runs[i].times && !failed[thread]; time++)
            failed[thread] = edgerev_run((int32_t *)(arena + header[1]), (int64_t *)(arena + header[2]), arena,
                                         runs[i].first, runs[i].last, runs[i].n, thread, thread_count,
                                         (int32_t *)(arena + header[3]), (int32_t *)(arena + header[4]));
    pthread_barrier_wait(&gate);
    if (fegetround() != FE_UPWARD) atomic_store(&changed, 1);
    return NULL;
}

int main(int count, char **words) {
    if (count < 5 || count - 4 > MOST_RUNS)
        return fprintf(stderr, "usage: IMAGE OUT THREADS first:last:n:times...\n"), 1;
    FILE *file = fopen(words[1], "rb");
    if (!file || fread(header, sizeof header, 1, file) != 1) return perror(words[1]), 1;
    size_t size = (size_t)header[0];
    arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED || fread(arena, 1, size, file) != size)
        return fprintf(stderr, "the image is cut off\n"), 1;
    fclose(file);
    thread_count = atoi(words[3]);
    if (thread_count < 1 || thread_count > EDGEREV_MAX_THREADS) return fprintf(stderr, "THREADS: expected 1 .. 16\n"), 1;
    for (int i = 4; i < count; i++) {
        Run *run = &runs[run_count++];
        if (sscanf(words[i], "%td:%td:%td:%td", &run->first, &run->last, &run->n, &run->times) != 4)
            return fprintf(stderr, "%s: expected first:last:n:times\n", words[i]), 1;
    }
    int32_t *barrier = (int32_t *)(arena + header[4]);
    int (*hook)(void) = yield;
    barrier[EDGEREV_BARRIER_SPINS] = 100;
    memcpy(barrier + EDGEREV_BARRIER_YIELD, &hook, sizeof hook);

    pthread_barrier_init(&gate, NULL, (unsigned)thread_count);
    pthread_t others[EDGEREV_MAX_THREADS];
    for (intptr_t thread = 1; thread < thread_count; thread++)
        if (pthread_create(&others[thread], NULL, work, (void *)thread)) return fprintf(stderr, "no threads\n"), 1;
    long before = atomic_load(&calls);
    work(NULL);
    long during = atomic_load(&calls) - before;
    for (int thread = 1; thread < thread_count; thread++) pthread_join(others[thread], NULL);

    printf("allocations %ld\n", during);
    if (atomic_load(&changed)) return fprintf(stderr, "the caller's rounding was changed\n"), 2;
    if (failed[0]) {
        int32_t *status = (int32_t *)(arena + header[3]) + (failed[0] - 1) * EDGEREV_STATUS_LINE;
        return fprintf(stderr, "status %d at row %d, sample %d\n", status[0], status[1], status[2]), 3;
    }
    file = fopen(words[2], "wb");
    if (!file || fwrite(arena, 1, size, file) != size || fclose(file)) return perror(words[2]), 1;
    return 0;
}
