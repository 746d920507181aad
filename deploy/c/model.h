/* The two files of a model, for train.c: load them into an arena, save what training changed.
 *
 * Nothing is allocated but the arena. The program that includes this, and defines _GNU_SOURCE before, also defines
 * fail(), which hears what went wrong and does not return.
 */
#ifndef EDGEREV_MODEL_H
#define EDGEREV_MODEL_H

#include "edgerev.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BAD_FILE = 1, WRONG_USAGE = 2, MODEL_FAILED = 3 }; /* exit codes */

static EdgerevProgram program;
static const char *program_path;
static int program_file; /* stays open: the names of blocks are read when one is needed */
static uint8_t *arena;
static uint8_t buffer[1 << 14]; /* what is on its way from a file or the stream */

__attribute__((noreturn, format(printf, 2, 3))) static void fail(int code, const char *format, ...);

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static uint32_t checksum(uint32_t start, const void *bytes, size_t size) {
    static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                       0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                       0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    const uint8_t *at = bytes;
    uint32_t crc = ~start;
    for (; size > 0; size--, at++) {
        crc = table[(crc ^ *at) & 15] ^ crc >> 4;
        crc = table[(crc ^ *at >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

static int open_to_read(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(BAD_FILE, "cannot open %s: %s; expected a file of a model", path, strerror(errno));
    return file;
}

static void read_all(const char *path, int file, void *to, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t count = read(file, (uint8_t *)to + done, size - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail(BAD_FILE, "cannot read %s: %s", path, strerror(errno));
        if (count == 0) fail(BAD_FILE, "%s is cut off; expected a whole file; copy it again", path);
        done += (size_t)count;
    }
}

static int write_all(int file, const void *from, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t count = write(file, (const uint8_t *)from + done, size - done);
        if (count < 0 && errno != EINTR) return -1;
        if (count > 0) done += (size_t)count;
    }
    return 0;
}

static void check_kind(const char *path, const char *magic, const char *expected, int32_t found) {
    if (memcmp(magic, expected, 8) != 0)
        fail(BAD_FILE, "%s does not begin with %s; expected the file of that kind that edgerev wrote", path, expected);
    if (found != EDGEREV_INTERFACE)
        fail(BAD_FILE, "%s has interface version %d; expected %d, that of this program; make both with one version of "
             "edgerev", path, (int)found, EDGEREV_INTERFACE);
}

static void check_sum(const char *path, uint32_t found, uint32_t expected) {
    if (found != expected)
        fail(BAD_FILE, "%s is damaged: its checksum is another one; copy it again, or go back to an older one", path);
}

static void check_size(const char *path, int file, int64_t expected) {
    struct stat facts;
    if (fstat(file, &facts) != 0) fail(BAD_FILE, "cannot read %s: %s", path, strerror(errno));
    if (facts.st_size != expected)
        fail(BAD_FILE, "%s has %lld bytes; expected %lld; it is cut off, or was changed: copy it again", path,
             (long long)facts.st_size, (long long)expected);
}

static void load_program(const char *path) {
    program_path = path;
    program_file = open_to_read(path);
    read_all(path, program_file, &program, sizeof program);
    check_kind(path, program.magic, EDGEREV_PROGRAM_MAGIC, program.interface_version);
    uint32_t expected = program.checksum;
    program.checksum = 0;
    check_sum(path, checksum(0, &program, sizeof program), expected);
    int64_t names = (int64_t)program.blocks * EDGEREV_NAME;
    check_size(path, program_file, (int64_t)sizeof program + program.table_bytes + names);

    size_t size = (size_t)program.arena_bytes, table = (size_t)program.table_bytes;
    if (program.arena_bytes > PTRDIFF_MAX)
        fail(BAD_FILE, "%s needs an arena of %lld bytes, more than a process has here; make the model with a budget",
             path, (long long)program.arena_bytes);
    /* with every page there from the start, no step finds out that there is none */
    arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (arena == MAP_FAILED)
        fail(BAD_FILE, "%s needs an arena of %lld bytes, which this machine does not give (%s); make the model with a "
             "smaller budget, or stop other programs", path, (long long)program.arena_bytes, strerror(errno));
    read_all(path, program_file, arena + program.rows, table);
    uint32_t rest = checksum(0, arena + program.rows, table);
    for (int32_t block = 0; block < program.blocks; block++) {
        read_all(path, program_file, buffer, EDGEREV_NAME);
        rest = checksum(rest, buffer, EDGEREV_NAME);
    }
    check_sum(path, rest, program.rest_checksum);
}

static int64_t kept_bytes(void) {
    int64_t bytes = 0;
    for (int i = 0; i < EDGEREV_SPANS; i++) bytes += program.span[i].bytes;
    return bytes;
}

static uint32_t kept_checksum(void) {
    uint32_t sum = 0;
    for (int i = 0; i < EDGEREV_SPANS; i++)
        sum = checksum(sum, arena + program.span[i].offset, (size_t)program.span[i].bytes);
    return sum;
}

static int kept_is_finite(void) {
    for (int i = 0; i < EDGEREV_SPANS; i++) {
        const uint32_t *bits = (const uint32_t *)(arena + program.span[i].offset);
        int64_t count = program.span[i].finite ? program.span[i].bytes / 4 : 0;
        for (int64_t at = 0; at < count; at++)
            if ((bits[at] & 0x7f800000) == 0x7f800000) return 0;
    }
    return 1;
}

static void load_parameters(const char *path) {
    EdgerevParameters header;
    int file = open_to_read(path);
    read_all(path, file, &header, sizeof header);
    check_kind(path, header.magic, EDGEREV_PARAMETERS_MAGIC, header.interface_version);
    if (header.model != program.model || header.bytes != kept_bytes())
        fail(BAD_FILE, "%s belongs to another model than %s; expected the two files written together", path,
             program_path);
    check_size(path, file, (int64_t)sizeof header + header.bytes);
    for (int i = 0; i < EDGEREV_SPANS; i++)
        read_all(path, file, arena + program.span[i].offset, (size_t)program.span[i].bytes);
    check_sum(path, kept_checksum(), header.checksum);
    if (!kept_is_finite())
        fail(BAD_FILE, "%s holds NaN or infinity; expected finite parameters; go back to an older one", path);
    close(file);
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static void cannot_save(const char *path) {
    fail(BAD_FILE, "cannot save %s: %s; expected room beside it in a folder that can be written; what was there is "
         "still whole", path, strerror(errno));
}

/* Open the temporary file, once no other process writes it. Its name is fixed, so that crash after crash cannot fill a
 * device, and the one that Python uses, so that each waits for the other. */
static int open_temporary(const char *path, const char *temporary) {
    for (;;) {
        struct stat mine, there;
        int file = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (file < 0) cannot_save(path);
        while (flock(file, LOCK_EX) != 0)
            if (errno != EINTR) cannot_save(path);
        /* its last holder may have renamed it since it was opened */
        if (fstat(file, &mine) == 0 && stat(temporary, &there) == 0 && mine.st_dev == there.st_dev &&
            mine.st_ino == there.st_ino && ftruncate(file, 0) == 0)
            return file;
        close(file);
    }
}

static void sync_folder(char *path) {
    char *slash = strrchr(path, '/');
    if (slash) slash[slash == path ? 1 : 0] = 0;
    int folder = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || fsync(folder) != 0) cannot_save(path);
    close(folder);
}

static void save(const char *given) {
    static char path[PATH_MAX], temporary[PATH_MAX + 8];
    if (!realpath(given, path)) snprintf(path, sizeof path, "%s", given); /* a new file */
    if (!kept_is_finite())
        fail(MODEL_FAILED, "%s was not written: a parameter is NaN or infinite; expected finite numbers; go on from "
             "the last file, with a lower learning rate", path);
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash + 1 - path) : 0;
    snprintf(temporary, sizeof temporary, "%.*s.%s.tmp", folder, path, path + folder);
    EdgerevParameters header = {.interface_version = EDGEREV_INTERFACE, .checksum = kept_checksum(),
                                .model = program.model, .bytes = kept_bytes()};
    memcpy(header.magic, EDGEREV_PARAMETERS_MAGIC, sizeof header.magic);
    int file = open_temporary(path, temporary);
    int failed = write_all(file, &header, sizeof header);
    for (int i = 0; i < EDGEREV_SPANS && !failed; i++)
        failed = write_all(file, arena + program.span[i].offset, (size_t)program.span[i].bytes);
    if (failed || fsync(file) != 0 || rename(temporary, path) != 0) {
        int reason = errno;
        unlink(temporary);
        errno = reason;
        cannot_save(path);
    }
    close(file);
    sync_folder(path);
}
/* ---- the program's tables ---------------------------------------------------------------------------------------- */

static const EdgerevSection *find_section(const char *name) {
    for (int i = 0; i < EDGEREV_SECTIONS; i++)
        if (strncmp(program.section[i].name, name, EDGEREV_NAME) == 0) return &program.section[i];
    return NULL;
}

static const EdgerevSection *section(const char *name) {
    const EdgerevSection *found = find_section(name);
    if (!found) fail(BAD_FILE, "%s has no section %s; expected one; write it again", program_path, name);
    return found;
}

static const EdgerevTensor *tensor(const char *name) {
    for (int i = 0; i < EDGEREV_TENSORS; i++)
        if (strncmp(program.tensor[i].name, name, EDGEREV_NAME) == 0) return &program.tensor[i];
    fail(BAD_FILE, "%s has no tensor %s; expected one; write it again", program_path, name);
}

#endif
