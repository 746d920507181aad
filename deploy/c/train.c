/* Train a model on samples from standard input, without Python and with no memory but the arena.
 *
 *     train MODEL.program MODEL.parameters [OUT]
 *
 * A sample is a record: the elements of the tensor "raw", float32, channels last; then its target: the int32 number of
 * its class, or a float32 for each output, as the model's loss wants it. Every `batch` samples make a step; at the end
 * of the stream, or on SIGTERM or SIGINT, those left over make a last one, and the parameters are written to OUT, or
 * back to MODEL.parameters. A power cut leaves the old file or the new one.
 *
 * Exit code 0; 1 for a bad file or stream, 2 for wrong usage, 3 if numbers left their range. What was learned before is
 * saved in any case, unless a step failed so late that the model is half updated.
 *
 *     cc -O2 train.c libedgerev.a -o train
 */
#define _GNU_SOURCE
#include "edgerev.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BAD_FILE = 1, WRONG_USAGE = 2, MODEL_FAILED = 3, STEPS_PER_LINE = 100 };

static EdgerevProgram program;
static const char *program_path;
static int program_file; /* stays open: the names of blocks are read when one is needed */
static uint8_t *arena;
static uint8_t buffer[1 << 14]; /* what is on its way from a file or the stream */

static void fail(int code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fprintf(stderr, "train: error: ");
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    va_end(values);
    _exit(code);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

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
    close(file);
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static void cannot_save(const char *path) {
    fail(BAD_FILE, "cannot save %s: %s; expected room beside it in a folder that can be written; what was there is "
         "still whole", path, strerror(errno));
}

static void check_finite(const char *path) {
    for (int i = 0; i < EDGEREV_SPANS; i++) {
        const uint32_t *bits = (const uint32_t *)(arena + program.span[i].offset);
        int64_t count = program.span[i].finite ? program.span[i].bytes / 4 : 0;
        for (int64_t at = 0; at < count; at++)
            if ((bits[at] & 0x7f800000) == 0x7f800000)
                fail(MODEL_FAILED, "%s was not written: a parameter is NaN or infinite; expected finite numbers; go on "
                     "from the last file, with a lower learning rate", path);
    }
}

/* Open the temporary file; its name is fixed, so that crash after crash cannot fill a device. */
static int open_temporary(const char *path, const char *temporary) {
    for (;;) {
        struct stat mine, there;
        int file = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (file < 0) cannot_save(path);
        if (flock(file, LOCK_EX | LOCK_NB) != 0)
            fail(BAD_FILE, "%s is being saved by another process; expected to be the only one; name another OUT", path);
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
    check_finite(path);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
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

static const EdgerevSection *section(const char *name) {
    for (int i = 0; i < EDGEREV_SECTIONS; i++)
        if (strncmp(program.section[i].name, name, EDGEREV_NAME) == 0) return &program.section[i];
    fail(BAD_FILE, "%s has no section %s; expected one; write it again", program_path, name);
    return NULL;
}

static const EdgerevTensor *tensor(const char *name) {
    for (int i = 0; i < EDGEREV_TENSORS; i++)
        if (strncmp(program.tensor[i].name, name, EDGEREV_NAME) == 0) return &program.tensor[i];
    fail(BAD_FILE, "%s has no tensor %s; expected one; write it again", program_path, name);
    return NULL;
}

/* ---- the stream -------------------------------------------------------------------------------------------------- */

static int signals; /* a descriptor that can be read when one has come: nothing is ever interrupted halfway */
static size_t unread, end;
static int stopped;

static void catch_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_CLOEXEC);
    if (signals < 0) fail(BAD_FILE, "cannot wait for signals: %s", strerror(errno));
}

static int refill(void) {
    struct pollfd sources[] = {{STDIN_FILENO, POLLIN, 0}, {signals, POLLIN, 0}};
    while (poll(sources, 2, -1) < 0)
        if (errno != EINTR) fail(BAD_FILE, "cannot wait for standard input: %s", strerror(errno));
    stopped = sources[1].revents != 0;
    ssize_t count = stopped ? 0 : read(STDIN_FILENO, buffer, sizeof buffer);
    if (count < 0) fail(BAD_FILE, "cannot read standard input: %s", strerror(errno));
    unread = 0;
    end = (size_t)count;
    return count > 0;
}

/* Take the next bytes of the stream; return how many, fewer than asked for only if it ended or a signal came. */
static size_t take(uint8_t *to, size_t size) {
    size_t done = 0;
    while (done < size && (unread < end || refill())) {
        size_t part = size - done < end - unread ? size - done : end - unread;
        memcpy(to + done, buffer + unread, part);
        unread += part;
        done += part;
    }
    return done;
}

/* Fill the batch; return its samples. What a record lacks at the end of the stream is put in `missing`. */
static intptr_t fill_batch(const EdgerevTensor *raw, const EdgerevTensor *target, size_t *missing) {
    size_t wide = (size_t)raw->elements * 4, narrow = (size_t)target->elements * 4;
    for (intptr_t n = 0; n < program.batch; n++) {
        size_t found = take(arena + raw->offset + (size_t)n * wide, wide);
        if (found == wide) found += take(arena + target->offset + (size_t)n * narrow, narrow);
        if (found == wide + narrow) continue;
        *missing = found > 0 && !stopped ? wide + narrow - found : 0;
        return n;
    }
    return program.batch;
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static const char *meaning(int32_t code) {
    switch (code) {
    case EDGEREV_INPUT_NOT_FINITE: return "it holds NaN or infinity; expected finite numbers: remove or repair it";
    case EDGEREV_LABEL_OUT_OF_RANGE: return "its label is out of range; expected 0 .. outputs - 1";
    case EDGEREV_TARGET_NOT_FINITE: return "its target is not finite or out of range; repair the data";
    case EDGEREV_STATE_NOT_FINITE: return "it computed NaN; lower the learning rate";
    case EDGEREV_STATE_OVERFLOW: return "the state left its range; standardise the input, or lower the learning rate";
    case EDGEREV_LOSS_NOT_FINITE: return "the loss is not finite; lower the learning rate";
    case EDGEREV_GRADIENT_NOT_FINITE: return "the gradient is not finite; lower the learning rate";
    case EDGEREV_UNKNOWN_OP: return "the kernels do not know an instruction; use one version of edgerev";
    default: return "see EdgerevStatus in edgerev.h";
    }
}

/* Run a step; return 0, or an exit code after saying what went wrong. `*whole`: are the parameters as before? */
static int step(const EdgerevSection *train, intptr_t n, long long before, int *whole) {
    int32_t *status = (int32_t *)(arena + program.status), *rows = (int32_t *)(arena + program.rows);
    int32_t failed = edgerev_run(rows, (int64_t *)(arena + program.tensor_table), arena, train->first, train->last,
                                 n, 0, 1, status, (int32_t *)(arena + program.barrier));
    if (failed == 0) return 0;
    const int32_t *line = status + (failed - 1) * EDGEREV_STATUS_LINE;
    int32_t code = line[EDGEREV_S_CODE], row = line[EDGEREV_S_ROW], sample = line[EDGEREV_S_SAMPLE];
    int32_t block = rows[(size_t)row * EDGEREV_ROW + EDGEREV_BLOCK];
    char name[EDGEREV_NAME + 1] = "the program";
    if (block >= 0) {
        off_t names = (off_t)(sizeof program + (size_t)program.table_bytes);
        if (pread(program_file, name, EDGEREV_NAME, names + (off_t)block * EDGEREV_NAME) < 0) name[0] = 0;
    }
    fprintf(stderr, "train: error: status %d in %s", (int)code, name);
    if (sample >= 0) fprintf(stderr, " at sample %lld of the stream", before + sample);
    fprintf(stderr, ": %s\n", meaning(code));
    *whole = row < program.first_update;
    return code <= EDGEREV_TARGET_NOT_FINITE ? BAD_FILE : MODEL_FAILED;
}

static void report_progress(long long samples, double loss, double correct, double count) {
    fprintf(stderr, "%lld samples: loss %.4f", samples, loss / count);
    if (program.loss != EDGEREV_MEAN_SQUARED_ERROR) fprintf(stderr, ", accuracy %.2f %%", 100 * correct / count);
    fprintf(stderr, "\n");
}

/* Train until the stream ends; return the exit code. `*whole` is 0 if the parameters are half updated. */
static int train(int *whole) {
    const EdgerevSection *steps = section("train");
    const EdgerevTensor *raw = tensor("raw"), *target = tensor("target");
    const float *report = (const float *)(arena + tensor("report")->offset);
    double loss = 0, correct = 0, count = 0;
    long long samples = 0, number = 0;
    size_t missing = 0;
    for (intptr_t n; (n = fill_batch(raw, target, &missing)) > 0;) {
        int code = step(steps, n, samples, whole);
        if (code) return code;
        samples += n;
        loss += (double)report[EDGEREV_R_LOSS] * (double)n;
        correct += (double)report[EDGEREV_R_CORRECT] * (double)n;
        count += (double)n;
        if (++number % STEPS_PER_LINE == 0) {
            report_progress(samples, loss, correct, count);
            loss = correct = count = 0;
        }
        if (n < program.batch) break;
    }
    if (count > 0) report_progress(samples, loss, correct, count);
    if (missing)
        fprintf(stderr, "train: error: standard input ended %zu bytes before the end of sample %lld; expected "
                "whole records of %zu bytes\n", missing, samples,
                ((size_t)raw->elements + (size_t)target->elements) * 4);
    return missing ? BAD_FILE : 0;
}

static void report_memory(void) {
    int file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t count = file < 0 ? -1 : read(file, buffer, sizeof buffer - 1);
    buffer[count < 0 ? 0 : count] = 0;
    const char *line = strstr((const char *)buffer, "VmHWM:");
    if (line)
        fprintf(stderr, "peak RSS %lld bytes, of which arena %lld\n", atoll(line + 6) * 1024,
                (long long)program.arena_bytes);
}

int main(int count, char **words) {
    if (count < 3 || count > 4) fail(WRONG_USAGE, "expected MODEL.program MODEL.parameters [OUT]");
    if (edgerev_interface() != EDGEREV_INTERFACE)
        fail(BAD_FILE, "the kernels have interface version %d; expected %d, that of edgerev.h; link those that came "
             "with it", (int)edgerev_interface(), EDGEREV_INTERFACE);
    load_program(words[1]);
    load_parameters(words[2]);
    catch_signals();
    int whole = 1, code = train(&whole);
    if (whole) save(words[count - 1]);
    if (code)
        fprintf(stderr, whole ? "train: what was learned before is saved\n"
                              : "train: the step left the model half updated, so it was not saved; start again\n");
    report_memory();
    return code;
}
