/* The allocator of a test's program: memory that is never given back, and a count of the calls. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long calls;
static atomic_size_t used;
static uint8_t heap[1 << 20] __attribute__((aligned(64)));

void *aligned_alloc(size_t alignment, size_t size) {
    (void)alignment;
    atomic_fetch_add(&calls, 1);
    size_t start = atomic_fetch_add(&used, (size + 63) / 64 * 64);
    return start + size <= sizeof heap ? heap + start : NULL;
}
void *malloc(size_t size) { return aligned_alloc(64, size); }
void *calloc(size_t count, size_t size) { return malloc(count * size); /* never used before, so zero */ }
void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
int posix_memalign(void **result, size_t alignment, size_t size) {
    *result = aligned_alloc(alignment, size);
    return *result ? 0 : 12;
}
void *realloc(void *old, size_t size) {
    uint8_t *fresh = malloc(size);
    uint8_t *source = old, *end = heap + sizeof heap;
    for (size_t i = 0; fresh && source && i < size && source + i < end; i++) fresh[i] = source[i];
    return fresh;
}
void free(void *block) { (void)block; }
void *mmap(void *where, size_t size, int protection, int flags, int file, off_t offset) {
    atomic_fetch_add(&calls, 1);
#ifdef SYS_mmap2 /* of 32-bit systems: the offset is in pages */
    return (void *)syscall(SYS_mmap2, where, size, protection, flags, file, offset / 4096);
#else
    return (void *)syscall(SYS_mmap, where, size, protection, flags, file, offset);
#endif
}
