/* Preloaded into a process, writes down what it does to the files of one folder, or lets that fail.

   DISK_FOLDER: the folder, as an absolute path without symbolic links.
   DISK_LOG: file for the records, if there is one: four numbers (kind, inode, offset, length), then so many bytes.
   What is written to the standard output is recorded too, so that it has its place among the calls.
   DISK_TROUBLE: file of 8 bytes, if there is one: an errno, which writes end with from then on (0: they do not), and
   what it strikes (0: all; 1: only what makes a file longer or makes a file, as on a full disk).

   A lock is held across each call and its record, so the order of the records is that of the calls. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST_FILES = 1024 };
enum trouble_of { EVERY, GROWING };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static char watched[MOST_FILES]; /* by descriptor */
static int log_fd = -1;
static volatile int32_t *trouble;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
    const char *from = getenv("DISK_FOLDER"), *log = getenv("DISK_LOG"), *control = getenv("DISK_TROUBLE");
    if (from) strncpy(folder, from, sizeof folder - 1);
    if (log) log_fd = REAL(open)(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (control) {
        int fd = REAL(open)(control, O_RDWR | O_CLOEXEC);
        void *map = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) abort();
        trouble = map;
        close(fd);
    }
}

static int inside(const char *path) {
    size_t length = strlen(folder);
    return length && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int is_watched(int fd) { return fd >= 0 && fd < MOST_FILES && watched[fd]; }

static int struck(int growing) {
    if (!trouble || !trouble[0] || (trouble[1] == GROWING && !growing)) return 0;
    errno = trouble[0];
    return 1;
}

static void record(char kind, uint64_t inode, int64_t offset, const void *data, size_t length) {
    int64_t head[4] = {kind, (int64_t)inode, offset, (int64_t)length};
    struct iovec pieces[2] = {{head, sizeof head}, {(void *)data, length}};
    int before = errno;
    if (log_fd >= 0 && writev(log_fd, pieces, 2) != (ssize_t)(sizeof head + length)) abort();
    errno = before;
}

static struct stat status(int fd) {
    struct stat found;
    if (fstat(fd, &found)) abort();
    return found;
}

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (!inside(path)) return real(path, flags, mode);
    pthread_mutex_lock(&mutex);
    int fd = -1, made = (flags & O_CREAT) && access(path, F_OK) != 0;
    if (!(made && struck(1)) && (fd = real(path, flags, mode)) >= 0) {
        if (fd >= MOST_FILES) abort();
        watched[fd] = 1;
        record(made ? 'C' : 'O', status(fd).st_ino, 0, path, strlen(path));
        if (flags & O_TRUNC) record('T', status(fd).st_ino, 0, "", 0);
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return opened(REAL(name), path, flags, mode);                                                                  \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (is_watched(fd)) watched[fd] = 0;
    return REAL(close)(fd);
}

static ssize_t written(int fd, const void *data, size_t length, int64_t offset) {
    pthread_mutex_lock(&mutex);
    ssize_t done = -1;
    struct stat file = status(fd);
    int place = offset < 0; /* at the file's own position */
    if (place) offset = fcntl(fd, F_GETFL) & O_APPEND ? file.st_size : lseek(fd, 0, SEEK_CUR);
    if (!struck(offset + (int64_t)length > file.st_size)) {
        done = place ? REAL(write)(fd, data, length) : REAL(pwrite)(fd, data, length, offset);
        if (done > 0) record('W', file.st_ino, offset, data, (size_t)done);
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

ssize_t write(int fd, const void *data, size_t length) {
    if (is_watched(fd)) return written(fd, data, length, -1);
    if (fd == STDOUT_FILENO) {
        pthread_mutex_lock(&mutex);
        record('A', 0, 0, data, length);
        pthread_mutex_unlock(&mutex);
    }
    return REAL(write)(fd, data, length);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return is_watched(fd) ? written(fd, data, length, offset) : REAL(pwrite)(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite(fd, data, length, offset); }

int ftruncate(int fd, off_t size) {
    if (!is_watched(fd)) return REAL(ftruncate)(fd, size);
    pthread_mutex_lock(&mutex);
    struct stat file = status(fd);
    int failed = struck(size > file.st_size) || REAL(ftruncate)(fd, size);
    if (!failed) record('T', file.st_ino, size, "", 0);
    pthread_mutex_unlock(&mutex);
    return failed ? -1 : 0;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

static int synced(int (*real)(int), int fd) {
    if (!is_watched(fd)) return real(fd);
    pthread_mutex_lock(&mutex);
    struct stat file = status(fd);
    int failed = struck(0) || real(fd);
    if (!failed) record(S_ISDIR(file.st_mode) ? 'D' : 'F', file.st_ino, 0, "", 0);
    pthread_mutex_unlock(&mutex);
    return failed ? -1 : 0;
}

int fsync(int fd) { return synced(REAL(fsync), fd); }
int fdatasync(int fd) { return synced(REAL(fdatasync), fd); }

static int named(char kind, int (*real)(const char *, const char *), const char *from, const char *to) {
    char both[2 * PATH_MAX];
    if (!inside(from)) return real(from, to);
    pthread_mutex_lock(&mutex);
    int failed = struck(kind == 'L') || real(from, to);
    size_t first = strlen(from) + 1, second = strlen(to);
    memcpy(both, from, first);
    memcpy(both + first, to, second);
    if (!failed) record(kind, 0, 0, both, first + second);
    pthread_mutex_unlock(&mutex);
    return failed ? -1 : 0;
}

int rename(const char *from, const char *to) { return named('R', REAL(rename), from, to); }
int link(const char *from, const char *to) { return named('L', REAL(link), from, to); }

int unlink(const char *path) {
    if (!inside(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&mutex);
    int failed = struck(0) || REAL(unlink)(path);
    if (!failed) record('U', 0, 0, path, strlen(path));
    pthread_mutex_unlock(&mutex);
    return failed ? -1 : 0;
}
