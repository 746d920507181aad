/* edgerev in C: the compiled kernels, and the files that hold a model for them.
 *
 * A model is data, and one library serves every model. `model.program` says what to compute and where everything lies
 * in the arena, the one piece of memory that a model needs; `model.parameters` holds what training changes. To train:
 *
 *   1. Read an EdgerevProgram, the first bytes of `model.program`.
 *   2. Get `arena_bytes` of zeroed memory that begin at a multiple of EDGEREV_ALIGNMENT: this is the arena.
 *   3. Read the next `table_bytes` of `model.program` to the arena's offset `rows`.
 *   4. Read an EdgerevParameters, the first bytes of `model.parameters`, and what follows it to the program's spans.
 *   5. Put up to `batch` samples into the tensor "raw" and as many targets into "target"; run the section "train" for
 *      them with edgerev_run; the tensor "report" then holds their loss. Again for every batch.
 *   6. Write the spans back as they were read.
 *
 * A model with a section "ridge_add" has a ridge head, which answers from sums over samples that were made with the
 * backbone as it is. "train" would move that and make the sums worthless, so in step 5 run "encode" to "forward", then
 * "ridge_add", for at most their `most_samples`; "report" stays as it is, and so do all parameters.
 *
 * train.c and model.h beside this file do all of that. Results are the same bits as in Python, on every processor and
 * for any number of threads. Files and memory are little-endian. C99 or newer, or C++.
 */
#ifndef EDGEREV_H
#define EDGEREV_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { /* those of edgerev's Python (kernels/layout.py) */
    EDGEREV_INTERFACE = 3, /* of this header; files and library must have the same */
    EDGEREV_ALIGNMENT = 64,
    EDGEREV_MAX_THREADS = 16,
    EDGEREV_ROW = 26, /* numbers in a row of the program, */
    EDGEREV_BLOCK = 1 /* of which this one is the number of a block, or -1 */
};

typedef enum { EDGEREV_F32 = 0, EDGEREV_I32 = 1, EDGEREV_I16 = 2, EDGEREV_I64 = 3, EDGEREV_F64 = 4 } EdgerevDType;

typedef enum {
    EDGEREV_CROSS_ENTROPY = 0,        /* a target is the int32 number of a class */
    EDGEREV_BINARY_CROSS_ENTROPY = 1, /* a float32 in 0 .. 1 for each output */
    EDGEREV_MEAN_SQUARED_ERROR = 2,   /* a float32 for each output */
    EDGEREV_SOFT_CROSS_ENTROPY = 3    /* a share in 0 .. 1 for each class */
} EdgerevLoss;

/* ---- the kernels ------------------------------------------------------------------------------------------------- */

/* Return the version of the interface that the kernels were compiled with; expected: EDGEREV_INTERFACE. */
int32_t edgerev_interface(void);

/* Run rows `first` to `last - 1` for `n` samples as one of `threads`; return 0, or 1 + the number of a thread.
 *
 * rows, tensors, status, barrier: the arena's address plus the program's offset of that name (`tensor_table`). To run
 * several sections that follow one another, pass the first row of the first and the last one of the last.
 *
 * If the result is not 0, something went wrong, and line `result - 1` of the status, EDGEREV_STATUS_LINE int32 each,
 * says what: EDGEREV_S_CODE, EDGEREV_S_ROW, EDGEREV_S_SAMPLE (of the batch, or -1). Set the status of all threads to
 * zero before the next run. A row before the program's `first_update` left the parameters as they were.
 *
 * Nothing is allocated, no function is called but the one at EDGEREV_BARRIER_YIELD, and the processor's floating-point
 * settings are put back at the end. One run at a time for an arena; any number of arenas.
 *
 * Threads are the caller's: up to the program's `threads` call this at the same time, with the same arguments but for
 * `thread`, 0 to `threads - 1`, and all return the same result. They wait for one another in the barrier, int32 in
 * zeroed memory, where the caller first puts at EDGEREV_BARRIER_SPINS how often to look before giving the processor
 * away (1000), and at EDGEREV_BARRIER_YIELD the address of a function without arguments that gives it away, such as
 * sched_yield: an address of 4 or 8 bytes, written by memcpy. One thread alone needs neither.
 */
int32_t edgerev_run(const int32_t *rows, const int64_t *tensors, uint8_t *arena, intptr_t first, intptr_t last,
                    intptr_t n, intptr_t thread, intptr_t threads, int32_t *status, int32_t *barrier);

enum {
    EDGEREV_S_CODE = 0,
    EDGEREV_S_ROW = 1,
    EDGEREV_S_SAMPLE = 2,
    EDGEREV_STATUS_LINE = 32,
    EDGEREV_BARRIER_SPINS = 256,
    EDGEREV_BARRIER_YIELD = 258
};

typedef enum {
    EDGEREV_OK = 0,
    EDGEREV_INPUT_NOT_FINITE = 1,
    EDGEREV_LABEL_OUT_OF_RANGE = 2,
    EDGEREV_TARGET_NOT_FINITE = 3,
    EDGEREV_STATE_NOT_FINITE = 4,
    EDGEREV_STATE_OVERFLOW = 5,
    EDGEREV_LOSS_NOT_FINITE = 6,
    EDGEREV_GRADIENT_NOT_FINITE = 7,
    EDGEREV_NOT_POSITIVE_DEFINITE = 8,
    EDGEREV_UNKNOWN_OP = 9,
    EDGEREV_OUTPUT_NOT_FINITE = 10,
    EDGEREV_SUMS_FULL = 11 /* int32 sums have no room for more samples; nothing was added */
} EdgerevStatus;

/* ---- model.program: an EdgerevProgram, `table_bytes` for the arena, `blocks` names ------------------------------- */

#define EDGEREV_PROGRAM_MAGIC "edgeprog"
enum { EDGEREV_NAME = 32, EDGEREV_SECTIONS = 16, EDGEREV_TENSORS = 16, EDGEREV_SPANS = 8 };

/* Rows that are run together, by name:
 *
 *   init                      initial parameters from the seed
 *   train                     one training step; with a ridge head only before its first sample
 *   encode .. read_out        a prediction: fills the tensor "probability"
 *   encode .. forward         the backbone's output, for ridge_add
 *   ridge_range               of a ridge head with whole sums, after encode .. forward and before its first sample:
 *                             takes those whose backbone's output is there into the range of its features
 *   ridge_reset, ridge_add    of a ridge head: forget all samples; add those whose backbone's output is there
 *   ridge_release             of a ridge head, after ridge_solve: forget all samples, but keep the answers
 *   ridge_fade                of a ridge head with float64 sums: samples so far count EDGEREV_V_SHARE times as much
 *   ridge_solve               of a ridge head: before predictions, after loading and whenever samples were added
 *   fade, fisher              of EWC, at the end of an experience: fade once, with 1 at EDGEREV_V_SHARE; then fisher
 *                             for one sample at a time, with 1 / samples there
 *   consolidate               of SI and EWC, at the end of an experience: holds weights where they are now
 *   put_away, take_out        of adapters: before and after EDGEREV_C_TASK changes
 */
typedef struct {
    char name[EDGEREV_NAME]; /* ended by a zero, as all names; empty if there are no more */
    int32_t first, last;     /* rows, `last` being the one after the last */
    int32_t most_samples;    /* in one run */
    int32_t reserved;
} EdgerevSection;

/* A place in the arena for the caller to write and read:
 *
 *   raw                       samples, one after another, each as (height, width, channels)
 *   target                    their targets, as EdgerevLoss says
 *   probability               answers to them: probabilities, or values for EDGEREV_MEAN_SQUARED_ERROR
 *   report                    of the batch trained last: mean loss, EDGEREV_R_LOSS; share of right answers, _R_CORRECT
 *   counters                  the seed, EDGEREV_C_SEED; the steps trained, EDGEREV_C_STEP; the number of the task at
 *                             hand plus 1, or 0 for none, EDGEREV_C_TASK; how many modules, counted from the stem,
 *                             training leaves as they are, EDGEREV_C_FROZEN: stem, then F and G of each block; 1 for
 *                             adapters and head alone, EDGEREV_C_ADAPTERS
 *   scalars                   two are the caller's: EDGEREV_V_FACTOR, a factor on the learning rate; EDGEREV_V_SHARE,
 *                             what ridge_fade and fade leave, and what fisher adds
 *   input.mean, input.scale   for each channel: samples are taken as (x - mean) * scale
 *   loss.weights              for each class or output; only if the loss has weights
 */
typedef struct {
    char name[EDGEREV_NAME];
    int64_t offset, bytes; /* in the arena */
    int32_t dtype;         /* EdgerevDType */
    int32_t elements;      /* of one sample; of the whole tensor if it does not depend on the batch */
} EdgerevTensor;

enum { EDGEREV_C_SEED = 0, EDGEREV_C_STEP = 1, EDGEREV_C_TASK = 2, EDGEREV_C_FROZEN = 3, EDGEREV_C_ADAPTERS = 4 };
enum { EDGEREV_R_LOSS = 0, EDGEREV_R_CORRECT = 1, EDGEREV_V_FACTOR = 8, EDGEREV_V_SHARE = 9 };

/* Bytes of the arena that training changes for good. */
typedef struct {
    int64_t offset, bytes; /* no bytes if there are no more */
    int32_t finite;        /* whether these are float32 that have to be finite: do not save others */
    int32_t reserved;
} EdgerevSpan;

/* Checksums are CRC-32 as in zlib. Offsets are bytes from the start of the arena. */
typedef struct {
    char magic[8];           /* EDGEREV_PROGRAM_MAGIC, without its zero */
    int32_t interface_version;
    uint32_t checksum;       /* of this struct, with 0 here */
    uint32_t rest_checksum;  /* of the rest of the file */
    int32_t batch;           /* most samples of a step */
    int32_t threads;         /* most threads of a run */
    int32_t loss;            /* EdgerevLoss */
    int32_t first_update;    /* first row of "train" that changes parameters */
    int32_t blocks;          /* names at the end of the file, EDGEREV_NAME bytes each: what rows belong to */
    uint64_t model;          /* whose parameters fit: net, kind of optimizer, kind of loss */
    int64_t arena_bytes, table_bytes;
    int64_t rows, tensor_table, status, barrier; /* where edgerev_run finds them */
    EdgerevSection section[EDGEREV_SECTIONS];
    EdgerevTensor tensor[EDGEREV_TENSORS];
    EdgerevSpan span[EDGEREV_SPANS];
} EdgerevProgram;

/* ---- model.parameters: an EdgerevParameters, the bytes of the program's spans ------------------------------------ */

#define EDGEREV_PARAMETERS_MAGIC "edgeparm"

typedef struct {
    char magic[8]; /* EDGEREV_PARAMETERS_MAGIC, without its zero */
    int32_t interface_version;
    uint32_t checksum; /* of the rest of the file */
    uint64_t model;    /* that of the program */
    int64_t bytes;     /* of the rest of the file */
} EdgerevParameters;

/* A compiler that lays these out differently stops here. */
typedef char edgerev_layout_is_as_expected[sizeof(EdgerevProgram) == 1952 && sizeof(EdgerevParameters) == 32 ? 1 : -1];

#ifdef __cplusplus
}
#endif
#endif
