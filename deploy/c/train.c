/* Train a model on samples from standard input, without Python and with no memory but the arena.
 *
 *     train MODEL.program MODEL.parameters [OUT]
 *
 * A sample is a record: the elements of the tensor "raw", float32, channels last; then its target: the int32 number of
 * its class, or a float32 for each output, as the model's loss wants it. Every `batch` samples make a step; at the end
 * of the stream, or on SIGTERM or SIGINT, those left over make a last one, and the parameters are written to OUT, or
 * back to MODEL.parameters. A power cut leaves the old file or the new one.
 *
 * A ridge head learns by its sums alone: samples are added to them, and everything else stays as it is, for the sums
 * were made with this backbone. They take what the program allows in one run, `most_samples`, at a time.
 *
 * Exit code 0; 1 for a bad file or stream, 2 for wrong usage, 3 if numbers left their range. What was learned before is
 * saved in any case, and only then reported, unless a step failed so late that the model is half updated.
 *
 *     cc -O2 train.c libedgerev.a -o train
 */
#define _GNU_SOURCE
#include "model.h"

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/signalfd.h>

enum { STEPS_PER_LINE = 100 };

static char problem[512]; /* what ended the stream: to be told once everything is saved */

static void tell_problem(void) {
    if (problem[0]) fprintf(stderr, "train: error: %s\n", problem);
}

static void fail(int code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    tell_problem();
    fprintf(stderr, "train: error: ");
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    va_end(values);
    _exit(code);
}

/* ---- the stream -------------------------------------------------------------------------------------------------- */

static int signals; /* a descriptor that can be read when one has come: nothing is ever interrupted halfway */
static size_t unread, end;
static int stopped, broken; /* by a signal; the errno of a stream that failed */

static void catch_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN); /* whoever read the reports may be gone */
    signals = signalfd(-1, &set, SFD_CLOEXEC);
    if (signals < 0) fail(BAD_FILE, "cannot wait for signals: %s", strerror(errno));
}

static int refill(void) {
    struct pollfd sources[] = {{STDIN_FILENO, POLLIN, 0}, {signals, POLLIN, 0}};
    ssize_t count;
    do {
        count = poll(sources, 2, -1);
        stopped = count > 0 && sources[1].revents != 0;
        if (count > 0) count = stopped ? 0 : read(STDIN_FILENO, buffer, sizeof buffer);
    } while (count < 0 && (errno == EINTR || errno == EAGAIN));
    broken = count < 0 ? errno : 0;
    unread = 0;
    end = count > 0 ? (size_t)count : 0;
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

/* Fill the input with up to `most` samples; return how many. What a record lacks at the end goes into `missing`. */
static intptr_t fill(const EdgerevTensor *raw, const EdgerevTensor *target, intptr_t most, size_t *missing) {
    size_t wide = (size_t)raw->elements * 4, narrow = (size_t)target->elements * 4;
    for (intptr_t n = 0; n < most; n++) {
        size_t found = take(arena + raw->offset + (size_t)n * wide, wide);
        if (found == wide) found += take(arena + target->offset + (size_t)n * narrow, narrow);
        if (found == wide + narrow) continue;
        *missing = found > 0 && !stopped ? wide + narrow - found : 0;
        return n;
    }
    return most;
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static const EdgerevSection *parts[3]; /* of a step */
static int part_count, ridge;
static int whole = 1; /* whether no step failed after it had begun to change the parameters */

/* Say what a step is; return the most samples that it takes. */
static intptr_t choose_parts(void) {
    static const char *const sums[] = {"encode", "forward", "ridge_add"};
    intptr_t most = program.batch;
    ridge = find_section("ridge_add") != NULL;
    part_count = ridge ? 3 : 1;
    for (int i = 0; i < part_count; i++) {
        parts[i] = section(ridge ? sums[i] : "train");
        if (parts[i]->most_samples < most) most = parts[i]->most_samples;
    }
    return most;
}

static const char *meaning(int32_t code) {
    switch (code) {
    case EDGEREV_INPUT_NOT_FINITE: return "it holds NaN or infinity; expected finite numbers: remove or repair it";
    case EDGEREV_LABEL_OUT_OF_RANGE: return "its label is out of range; expected 0 .. outputs - 1";
    case EDGEREV_TARGET_NOT_FINITE: return "its target is not finite or out of range; repair the data";
    case EDGEREV_STATE_NOT_FINITE: return "it computed NaN; lower the learning rate";
    case EDGEREV_STATE_OVERFLOW: return "the state left its range; standardise the input, or lower the learning rate";
    case EDGEREV_LOSS_NOT_FINITE: return "the loss is not finite; lower the learning rate";
    case EDGEREV_GRADIENT_NOT_FINITE: return "the gradient is not finite; lower the learning rate";
    case EDGEREV_SUMS_FULL: return "the sums of a ridge head have no room for more samples; use int64 sums";
    case EDGEREV_UNKNOWN_OP: return "the kernels do not know an instruction; use one version of edgerev";
    default: return "see EdgerevStatus in edgerev.h";
    }
}

/* Note what the kernels met; return an exit code. */
static int note_failure(const int32_t *line, long long before) {
    int32_t code = line[EDGEREV_S_CODE], row = line[EDGEREV_S_ROW], sample = line[EDGEREV_S_SAMPLE];
    int32_t block = ((int32_t *)(arena + program.rows))[(size_t)row * EDGEREV_ROW + EDGEREV_BLOCK];
    char name[EDGEREV_NAME + 1] = "the program", place[64] = "";
    if (block >= 0) {
        off_t names = (off_t)(sizeof program + (size_t)program.table_bytes);
        if (pread(program_file, name, EDGEREV_NAME, names + (off_t)block * EDGEREV_NAME) < 0) name[0] = 0;
    }
    if (sample >= 0) snprintf(place, sizeof place, " at sample %lld of the stream", before + sample);
    snprintf(problem, sizeof problem, "status %d in %s%s: %s", (int)code, name, place, meaning(code));
    whole = ridge || row < program.first_update; /* sums change once everything was checked */
    return code <= EDGEREV_TARGET_NOT_FINITE ? BAD_FILE : MODEL_FAILED;
}

/* Learn from the samples in the input; return 0, or an exit code with `problem` and `whole` set. */
static int step(intptr_t n, long long before) {
    int32_t *status = (int32_t *)(arena + program.status);
    for (int i = 0; i < part_count; i++) {
        int32_t failed = edgerev_run((int32_t *)(arena + program.rows), (int64_t *)(arena + program.tensor_table),
                                     arena, parts[i]->first, parts[i]->last, n, 0, 1, status,
                                     (int32_t *)(arena + program.barrier));
        if (failed) return note_failure(status + (failed - 1) * EDGEREV_STATUS_LINE, before);
    }
    return 0;
}

static long long samples;
static double loss, correct, count; /* sums since the last report, and over how many samples */

static void report_progress(void) {
    if (count == 0) return;
    fprintf(stderr, "%lld samples", samples);
    if (ridge) fprintf(stderr, " added");
    else fprintf(stderr, ": loss %.4f", loss / count);
    if (!ridge && program.loss != EDGEREV_MEAN_SQUARED_ERROR)
        fprintf(stderr, ", accuracy %.2f %%", 100 * correct / count);
    fprintf(stderr, "\n");
    loss = correct = count = 0;
}

/* Train until the stream ends; return the exit code. */
static int train(void) {
    const EdgerevTensor *raw = tensor("raw"), *target = tensor("target");
    const float *report = (const float *)(arena + tensor("report")->offset);
    intptr_t most = choose_parts(), n = most;
    size_t missing = 0;
    for (long long number = 1; n == most && (n = fill(raw, target, most, &missing)) > 0; number++) {
        int code = step(n, samples);
        if (code) return code;
        samples += n;
        loss += (double)report[EDGEREV_R_LOSS] * (double)n;
        correct += (double)report[EDGEREV_R_CORRECT] * (double)n;
        count += (double)n;
        if (number % STEPS_PER_LINE == 0) report_progress();
    }
    if (broken)
        snprintf(problem, sizeof problem, "cannot read standard input: %s; expected a stream that ends",
                 strerror(broken));
    else if (missing)
        snprintf(problem, sizeof problem, "standard input ended %zu bytes before the end of sample %lld; expected "
                 "whole records of %zu bytes", missing, samples,
                 ((size_t)raw->elements + (size_t)target->elements) * 4);
    return problem[0] ? BAD_FILE : 0;
}

static void report_memory(void) {
    int file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t found = file < 0 ? -1 : read(file, buffer, sizeof buffer - 1);
    buffer[found < 0 ? 0 : found] = 0;
    const char *line = strstr((const char *)buffer, "VmHWM:");
    if (line)
        fprintf(stderr, "peak RSS %lld bytes, of which arena %lld\n", atoll(line + 6) * 1024,
                (long long)program.arena_bytes);
}

int main(int words, char **word) {
    if (words < 3 || words > 4) fail(WRONG_USAGE, "expected MODEL.program MODEL.parameters [OUT]");
    if (edgerev_interface() != EDGEREV_INTERFACE)
        fail(BAD_FILE, "the kernels have interface version %d; expected %d, that of edgerev.h; link those that came "
             "with it", (int)edgerev_interface(), EDGEREV_INTERFACE);
    load_program(word[1]);
    load_parameters(word[2]);
    catch_signals();
    int code = train();
    if (whole) save(word[words - 1]);
    report_progress();
    tell_problem();
    if (code)
        fprintf(stderr, whole ? "train: what was learned before is saved\n"
                              : "train: the step left the model half updated, so it was not saved; start again\n");
    report_memory();
    return code;
}
