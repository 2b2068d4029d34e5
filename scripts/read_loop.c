// Reads memory as fast as it can be read: ./read_loop THREADS, then a line on standard input for every measurement.
// Answers each with bytes per second. The memory, 512 MiB on huge pages, is larger than any cache in use.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
static char *memory;
static size_t part;
static void *work(void *index) {
    const uint64_t *words = (const uint64_t *)(memory + (size_t)index * part);
    uint64_t sums[32] = {0};
    for (size_t i = 0; i < part / 8; i += 32) {
        for (int line = 0; line < 4; line++) __builtin_prefetch(words + i + 1024 + 8 * line);
        for (int k = 0; k < 32; k++) sums[k] ^= words[i + k];
    }
    for (int k = 1; k < 32; k++) sums[0] ^= sums[k];
    return (void *)sums[0];
}
int main(int count, char **arguments) {
    size_t threads = atoi(arguments[1]), bytes = (size_t)512 << 20;
    part = bytes / threads / 256 * 256;
    memory = aligned_alloc(1 << 21, bytes);
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        pthread_t others[256];
        struct timespec start, stop;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (size_t i = 1; i < threads; i++) pthread_create(&others[i], 0, work, (void *)i);
        uintptr_t used = (uintptr_t)work(0);
        for (size_t i = 1; i < threads; i++) {
            void *sum;
            pthread_join(others[i], &sum);
            used ^= (uintptr_t)sum;
        }
        clock_gettime(CLOCK_MONOTONIC, &stop);
        double seconds = (stop.tv_sec - start.tv_sec) + (stop.tv_nsec - start.tv_nsec) * 1e-9;
        printf("%.3f %d\n", threads * part / seconds, (int)(used & 1));
        fflush(stdout);
    }
}
