/*
 * The native plugin interface of dtta, for C11. It mirrors the Rust crate beside it (../src), which says the same
 * at length; a test of that crate holds every size, offset, number and function type here to it.
 *
 * A plugin is a shared library that exports one function, `dtta_plugin_entry`. What it asks of the host goes through
 * the `dtta_host_table` that every call context points at.
 *
 * Rules:
 *  - Memory never changes hands. Bytes, arrays and tables that are passed in are borrowed until the function returns.
 *    Results of unknown length go through a sink, which belongs to the caller and copies what it is given. The only
 *    things a plugin makes for the host to keep are instances, which come back through `destroy`.
 *  - Tensors are ids. Those passed in, and those that the host writes, belong to the plugin until it releases them or
 *    the call returns, when the host releases them all. Those that the plugin hands to its caller are given away: it
 *    must not release them. An id means nothing after its call.
 *  - An error is a status other than DTTA_STATUS_OK and, in the error sink, the code, one zero byte, and the message,
 *    both UTF-8. Where a call fails, its results are not written. An error sink may be null.
 *  - Numbers that stand for a choice are decoded, never trusted: an unknown one is an error.
 *  - Nothing unwinds over the boundary: no C++ exception, no longjmp.
 *  - One thread at a time, not always the same one. Functions of the host are called on the thread of the call and
 *    until it returns.
 *  - Tables live forever; libraries are never unloaded. Tables only grow at their end: of the other side's, read
 *    what its `size` covers.
 */
#ifndef DTTA_H
#define DTTA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The interface version. While the first number is 0, both must match. */
#define DTTA_ABI_MAJOR 0u
#define DTTA_ABI_MINOR 1u
/* The same, as descriptors name it. */
#define DTTA_INTERFACE "0.1"
/* The most axes that a tensor has; the fewest is 1. */
#define DTTA_MAX_RANK 6

#if defined(_WIN32)
#define DTTA_EXPORT __declspec(dllexport)
#else
#define DTTA_EXPORT __attribute__((visibility("default")))
#endif

/* How a call ended. An unknown number counts as DTTA_STATUS_ERROR. */
typedef int32_t dtta_status;
enum {
    DTTA_STATUS_OK = 0,
    /* Refused or failed; the error sink says why. The instance is as good as before. */
    DTTA_STATUS_ERROR = 1,
    /* The plugin gave up in the middle; the host destroys the instance. */
    DTTA_STATUS_PANIC = 2,
    /* This side does not have what was asked for: a version, a role, an operation. */
    DTTA_STATUS_UNSUPPORTED = 3,
    /* The instance gave up in an earlier call and takes no more. */
    DTTA_STATUS_POISONED = 4
};

/* What elements are. */
typedef uint32_t dtta_kind;
enum { DTTA_KIND_FLOAT = 0, DTTA_KIND_INT = 1, DTTA_KIND_BOOLEAN = 2 };

/* How strongly a log line matters. */
typedef uint32_t dtta_log_level;
enum {
    DTTA_LOG_LEVEL_TRACE = 0,
    DTTA_LOG_LEVEL_DEBUG = 1,
    DTTA_LOG_LEVEL_INFO = 2,
    DTTA_LOG_LEVEL_WARN = 3,
    DTTA_LOG_LEVEL_ERROR = 4
};

/* What the host knows a tensor by. */
typedef uint64_t dtta_tensor_id;
/* No tensor: an optional operand that was left out. */
#define DTTA_TENSOR_ID_NONE UINT64_C(0)

/* What every table of a side starts with. */
typedef struct dtta_header {
    size_t size; /* bytes of the whole table, header included */
    uint32_t abi_major;
    uint32_t abi_minor;
} dtta_header;

/* Borrowed bytes. Text is UTF-8 without an end mark. `ptr` means nothing if `len` is 0. */
typedef struct dtta_bytes {
    const uint8_t *ptr;
    size_t len;
} dtta_bytes;

/* Where the callee writes a document; `write` appends, any number of times. */
typedef struct dtta_sink {
    void *context;
    void (*write)(void *context, dtta_bytes bytes);
} dtta_sink;

/* An argument that is not a tensor. */
typedef struct dtta_attr {
    uint32_t tag;        /* one of DTTA_ATTR_ */
    uint32_t reserved;   /* 0 */
    uint64_t bits;       /* the number's 64 bits: two's complement, IEEE 754, 0 or 1; the length of a list */
    const int64_t *list; /* the list's first element, else null */
} dtta_attr;
enum {
    DTTA_ATTR_TAG_NONE = 0,  /* left out */
    DTTA_ATTR_TAG_INT = 1,   /* Int and Count; a Kind too */
    DTTA_ATTR_TAG_FLOAT = 2, /* Float */
    DTTA_ATTR_TAG_BOOL = 3,  /* Bool */
    DTTA_ATTR_TAG_INTS = 4   /* Ints, Counts and Pair */
};

/* A tensor with the name that producer and consumer agree on. */
typedef struct dtta_named_tensor {
    dtta_bytes name;
    dtta_tensor_id tensor;
} dtta_named_tensor;

/* Where a plugin writes its named results. `write` takes the tensor and copies the name. */
typedef struct dtta_named_sink {
    void *context;
    void (*write)(void *context, dtta_named_tensor result);
} dtta_named_sink;

/* What there is to know of a tensor without reading it. */
typedef struct dtta_tensor_info {
    dtta_kind kind;
    uint32_t tracked; /* 1 if the tape records what is computed from it, else 0 */
    uint32_t rank;    /* 1 to DTTA_MAX_RANK */
    uint32_t reserved;
    uint64_t extents[DTTA_MAX_RANK]; /* outermost first; 0 beyond the rank */
} dtta_tensor_info;

typedef struct dtta_host_table dtta_host_table;

/* The context of one call into a plugin; valid until the call returns. What follows `host` is the host's own. */
typedef struct dtta_call {
    const dtta_host_table *host; /* never null */
} dtta_call;

/* The host's functions. All take the context of the call that runs on this thread. `error` may be null. */
struct dtta_host_table {
    dtta_header header;
    /* Computes operation `opcode` (DTTA_OP_) from its tensors and its attributes, both in the order that the number's
     * comment gives, and writes the ids of its results, 1 or 2. */
    dtta_status (*op)(dtta_call *call, uint32_t opcode, const dtta_tensor_id *inputs, size_t input_count,
                      const dtta_attr *attributes, size_t attribute_count, dtta_tensor_id *outputs,
                      size_t output_capacity, const dtta_sink *error);
    /* 1 if this host has the operation, else 0. */
    uint32_t (*op_supported)(dtta_call *call, uint32_t opcode);
    /* Shape, kind, and whether the tape records it. Does not wait for the device. */
    dtta_status (*info)(dtta_call *call, dtta_tensor_id tensor, dtta_tensor_info *out, const dtta_sink *error);
    /* A second id of the same tensor. */
    dtta_status (*share)(dtta_call *call, dtta_tensor_id tensor, dtta_tensor_id *out, const dtta_sink *error);
    /* Releases an id. Twice, or one of another call, does nothing. */
    void (*release)(dtta_call *call, dtta_tensor_id tensor);
    /* A float tensor from `count` elements, row by row. */
    dtta_status (*from_floats)(dtta_call *call, const float *elements, size_t count, const uint64_t *extents,
                               size_t rank, dtta_tensor_id *out, const dtta_sink *error);
    /* An int tensor from `count` elements, row by row. */
    dtta_status (*from_ints)(dtta_call *call, const int64_t *elements, size_t count, const uint64_t *extents,
                             size_t rank, dtta_tensor_id *out, const dtta_sink *error);
    /* Copies the elements out; `capacity` is their exact number. Waits for the device; refused with `not-permitted` in
     * `forward`, `condition` and `loss`. */
    dtta_status (*read_floats)(dtta_call *call, dtta_tensor_id tensor, float *elements, size_t capacity,
                               const dtta_sink *error);
    /* The same for an int tensor; truth values come as 0 and 1. */
    dtta_status (*read_ints)(dtta_call *call, dtta_tensor_id tensor, int64_t *elements, size_t capacity,
                             const dtta_sink *error);
    /* A constant that the experiment bound by name. */
    dtta_status (*constant)(dtta_call *call, dtta_bytes name, dtta_tensor_id *out, const dtta_sink *error);
    /* A declared parameter, by its position in the declaration. */
    dtta_status (*parameter)(dtta_call *call, uint32_t index, dtta_tensor_id *out, const dtta_sink *error);
    /* A declared buffer, by its position in the declaration. */
    dtta_status (*buffer)(dtta_call *call, uint32_t index, dtta_tensor_id *out, const dtta_sink *error);
    /* Replaces a declared buffer at the end of the call, unless the call fails. Takes `value`. */
    dtta_status (*update_buffer)(dtta_call *call, uint32_t index, dtta_tensor_id value, const dtta_sink *error);
    /* Writes a line to the host's log. */
    void (*log)(dtta_call *call, dtta_log_level level, dtta_bytes message);
};

/* A plugin's own state for one configured role. Define it as you like; the host only passes the pointer back. */
typedef struct dtta_instance dtta_instance;

/* The task head. In every table: `create` makes an instance from its configuration, JSON that the host has held to the
 * role's schema; `destroy` frees it and does not fail. */
typedef struct dtta_head_table {
    size_t size; /* bytes of this table */
    dtta_status (*create)(dtta_call *call, dtta_bytes config, dtta_instance **instance, const dtta_sink *error);
    void (*destroy)(dtta_instance *instance);
    /* Writes the values it wants kept, a JSON array of
     * {"name", "storage": "parameter" | "buffer", "shape": [...], "attributes": {...}}. */
    dtta_status (*declare)(dtta_instance *instance, const dtta_sink *document, const dtta_sink *error);
    /* Task outputs from what the backbone produced. */
    dtta_status (*forward)(dtta_instance *instance, dtta_call *call, const dtta_named_tensor *inputs,
                           size_t input_count, const dtta_named_sink *outputs, const dtta_sink *error);
    /* A prediction from task outputs. */
    dtta_status (*predict)(dtta_instance *instance, dtta_call *call, const dtta_named_tensor *outputs,
                           size_t output_count, const dtta_named_sink *prediction, const dtta_sink *error);
} dtta_head_table;

/* The mapper. */
typedef struct dtta_mapper_table {
    size_t size; /* bytes of this table */
    /* `slots` is a JSON array of {"name", "meaning", "shape"}. */
    dtta_status (*create)(dtta_call *call, dtta_bytes config, dtta_bytes slots, dtta_instance **instance,
                          const dtta_sink *error);
    void (*destroy)(dtta_instance *instance);
    dtta_status (*declare)(dtta_instance *instance, const dtta_sink *document, const dtta_sink *error);
    /* One tensor for each slot it fills, from task outputs. */
    dtta_status (*condition)(dtta_instance *instance, dtta_call *call, const dtta_named_tensor *outputs,
                             size_t output_count, const dtta_named_sink *slots, const dtta_sink *error);
} dtta_mapper_table;

/* A further or alternative scalar to minimise. */
typedef struct dtta_objective_table {
    size_t size; /* bytes of this table */
    dtta_status (*create)(dtta_call *call, dtta_bytes config, dtta_instance **instance, const dtta_sink *error);
    void (*destroy)(dtta_instance *instance);
    /* Writes the id of a loss [1] or [B], and gives it away. */
    dtta_status (*loss)(dtta_instance *instance, dtta_call *call, const dtta_named_tensor *outputs,
                        size_t output_count, dtta_tensor_id *loss, const dtta_sink *error);
} dtta_objective_table;

/* A score that can be accumulated, saved and merged. */
typedef struct dtta_metric_table {
    size_t size; /* bytes of this table */
    dtta_status (*create)(dtta_call *call, dtta_bytes config, dtta_instance **instance, const dtta_sink *error);
    void (*destroy)(dtta_instance *instance);
    /* Adds samples. */
    dtta_status (*update)(dtta_instance *instance, dtta_call *call, const dtta_named_tensor *predictions,
                          size_t prediction_count, const dtta_named_tensor *targets, size_t target_count,
                          const dtta_sink *error);
    /* Writes the accumulator as bytes. */
    dtta_status (*save)(dtta_instance *instance, const dtta_sink *bytes, const dtta_sink *error);
    /* Adds a saved accumulator. */
    dtta_status (*merge)(dtta_instance *instance, dtta_bytes saved, const dtta_sink *error);
    /* Writes a JSON object from metric name to number. */
    dtta_status (*report)(dtta_instance *instance, const dtta_sink *document, const dtta_sink *error);
} dtta_metric_table;

/* What a plugin offers. A null role is not offered. */
typedef struct dtta_plugin_table {
    dtta_header header;
    /* Writes the descriptor, a JSON object: `name`, `version`, `description`, `interface`, `roles`, `config_schema` by
     * role, `needs`. */
    dtta_status (*describe)(const dtta_sink *document, const dtta_sink *error);
    const dtta_head_table *head;
    const dtta_mapper_table *mapper;
    const dtta_objective_table *objective;
    const dtta_metric_table *metric;
} dtta_plugin_table;

/* The one function that a plugin exports. Where `host->header` is of another version, it answers
 * DTTA_STATUS_UNSUPPORTED with code `interface-version`. Else it fills `*out`: the caller put the bytes it has room for
 * in `out->header.size`; the plugin sets `header` to its own version and the bytes it wrote. May be called more than
 * once. */
DTTA_EXPORT dtta_status dtta_plugin_entry(const dtta_host_table *host, dtta_plugin_table *out, const dtta_sink *error);

/* Numbers of operations. Their results, gradients and errors: ../../OPERATIONS.md. */
enum {
    /* full(shape: Counts, value: Float): A float tensor filled with one value. */
    DTTA_OP_FULL = 1,
    /* arange(start: Int, end: Int): The whole numbers from start to end, the end left out. */
    DTTA_OP_ARANGE = 2,
    /* detach(x: Tensor): The same values, cut off from the tape. */
    DTTA_OP_DETACH = 3,
    /* add(x: Tensor, rhs: Tensor): x + rhs. */
    DTTA_OP_ADD = 10,
    /* sub(x: Tensor, rhs: Tensor): x - rhs. */
    DTTA_OP_SUB = 11,
    /* mul(x: Tensor, rhs: Tensor): x * rhs. */
    DTTA_OP_MUL = 12,
    /* div(x: Tensor, rhs: Tensor): x / rhs; whole numbers round toward zero. */
    DTTA_OP_DIV = 13,
    /* maximum(x: Tensor, rhs: Tensor): The larger of x and rhs; at a tie the gradient goes to x. */
    DTTA_OP_MAXIMUM = 14,
    /* minimum(x: Tensor, rhs: Tensor): The smaller of x and rhs; at a tie the gradient goes to x. */
    DTTA_OP_MINIMUM = 15,
    /* affine(x: Tensor, scale: Float, offset: Float): scale * x + offset. */
    DTTA_OP_AFFINE = 16,
    /* powf(x: Tensor, exponent: Float): x to the power of exponent. */
    DTTA_OP_POWF = 17,
    /* clamp(x: Tensor, low: OptionalFloat, high: OptionalFloat): x held within low and high. */
    DTTA_OP_CLAMP = 18,
    /* neg(x: Tensor): -x. */
    DTTA_OP_NEG = 19,
    /* abs(x: Tensor): The absolute value. */
    DTTA_OP_ABS = 20,
    /* exp(x: Tensor): The exponential. */
    DTTA_OP_EXP = 21,
    /* log(x: Tensor): The natural logarithm. */
    DTTA_OP_LOG = 22,
    /* sqrt(x: Tensor): The square root. */
    DTTA_OP_SQRT = 23,
    /* tanh(x: Tensor): The hyperbolic tangent. */
    DTTA_OP_TANH = 24,
    /* sigmoid(x: Tensor): 1 / (1 + exp(-x)). */
    DTTA_OP_SIGMOID = 25,
    /* relu(x: Tensor): max(x, 0). */
    DTTA_OP_RELU = 26,
    /* gelu(x: Tensor): The Gaussian error linear unit, with the exact error function. */
    DTTA_OP_GELU = 27,
    /* silu(x: Tensor): x * sigmoid(x). */
    DTTA_OP_SILU = 28,
    /* cast(x: Tensor, kind: Kind): The same values as another kind; only float to float stays on the tape. */
    DTTA_OP_CAST = 29,
    /* equal(x: Tensor, rhs: Tensor): Where x equals rhs. */
    DTTA_OP_EQUAL = 40,
    /* greater(x: Tensor, rhs: Tensor): Where x is greater than rhs. */
    DTTA_OP_GREATER = 41,
    /* greater_scalar(x: Tensor, rhs: Float): Where x is greater than a number. */
    DTTA_OP_GREATER_SCALAR = 42,
    /* logical_not(x: Tensor): The opposite truth values. */
    DTTA_OP_LOGICAL_NOT = 43,
    /* logical_and(x: Tensor, rhs: Tensor): Where both are true. */
    DTTA_OP_LOGICAL_AND = 44,
    /* choose(x: Tensor, mask: Tensor, otherwise: Tensor): x where mask is true, otherwise elsewhere. */
    DTTA_OP_CHOOSE = 45,
    /* sum(x: Tensor, axes: Ints, keep: Bool): The sum over axes. */
    DTTA_OP_SUM = 50,
    /* mean(x: Tensor, axes: Ints, keep: Bool): The mean over axes. */
    DTTA_OP_MEAN = 51,
    /* variance(x: Tensor, axes: Ints, keep: Bool): The population variance over axes. */
    DTTA_OP_VARIANCE = 52,
    /* amax(x: Tensor, axes: Ints, keep: Bool): The largest element over axes. */
    DTTA_OP_AMAX = 53,
    /* amin(x: Tensor, axes: Ints, keep: Bool): The smallest element over axes. */
    DTTA_OP_AMIN = 54,
    /* argmax(x: Tensor, axis: Int): The index of the largest element along an axis, which goes. */
    DTTA_OP_ARGMAX = 55,
    /* reshape(x: Tensor, shape: Ints): The same elements in another shape; one extent may be -1. */
    DTTA_OP_RESHAPE = 60,
    /* permute(x: Tensor, axes: Ints): The axes in another order. */
    DTTA_OP_PERMUTE = 61,
    /* expand(x: Tensor, shape: Counts): Extents of 1 repeated up to a shape. */
    DTTA_OP_EXPAND = 62,
    /* squeeze(x: Tensor, axis: Int): An axis of extent 1 removed. */
    DTTA_OP_SQUEEZE = 63,
    /* unsqueeze(x: Tensor, axis: Int): An axis of extent 1 inserted. */
    DTTA_OP_UNSQUEEZE = 64,
    /* flip(x: Tensor, axis: Int): The elements along an axis in reverse. */
    DTTA_OP_FLIP = 65,
    /* narrow(x: Tensor, axis: Int, start: Count, length: Count): A range of an axis. */
    DTTA_OP_NARROW = 66,
    /* pad(x: Tensor, axis: Int, before: Count, after: Count, value: Float): A value put before and after an axis. */
    DTTA_OP_PAD = 67,
    /* cat(parts: Tensors, axis: Int): Tensors joined along an axis they have. */
    DTTA_OP_CAT = 68,
    /* stack(parts: Tensors, axis: Int): Tensors of one shape joined along a new axis. */
    DTTA_OP_STACK = 69,
    /* gather(x: Tensor, index: Tensor, axis: Int): Along an axis, the elements that an index of equal rank names. */
    DTTA_OP_GATHER = 80,
    /* index_select(x: Tensor, index: Tensor, axis: Int): The slices along an axis that an index of rank 1 names. */
    DTTA_OP_INDEX_SELECT = 81,
    /* one_hot(x: Tensor, classes: Count): Indices as rows of one 1 among zeros. */
    DTTA_OP_ONE_HOT = 82,
    /* topk(x: Tensor, k: Count, axis: Int): The largest elements along an axis, largest first, and their indices. */
    DTTA_OP_TOPK = 83,
    /* matmul(x: Tensor, rhs: Tensor): The matrix product over the last two axes. */
    DTTA_OP_MATMUL = 100,
    /* softmax(x: Tensor, axis: Int): The softmax along an axis. */
    DTTA_OP_SOFTMAX = 101,
    /* log_softmax(x: Tensor, axis: Int): The logarithm of the softmax along an axis. */
    DTTA_OP_LOG_SOFTMAX = 102,
    /* conv2d(x: Tensor, weight: Tensor, bias: OptionalTensor, stride: Pair, padding: Pair, dilation: Pair, groups: Count): Convolution of images. */
    DTTA_OP_CONV2D = 103,
    /* avg_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair): The average of each window. */
    DTTA_OP_AVG_POOL2D = 104,
    /* max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair): The largest element of each window. */
    DTTA_OP_MAX_POOL2D = 105,
    /* adaptive_avg_pool2d(x: Tensor, height: Count, width: Count): Averages down to a size. */
    DTTA_OP_ADAPTIVE_AVG_POOL2D = 106,
    /* layer_norm(x: Tensor, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float): Normalisation over the last axis. */
    DTTA_OP_LAYER_NORM = 107,
    /* group_norm(x: Tensor, weight: OptionalTensor, bias: OptionalTensor, groups: Count, epsilon: Float): Normalisation within groups of channels. */
    DTTA_OP_GROUP_NORM = 108,
    /* batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float): Normalisation of each channel with given statistics. */
    DTTA_OP_BATCH_NORM = 109,
    /* resize_nearest(x: Tensor, height: Count, width: Count): Images resized by taking the nearest pixel. */
    DTTA_OP_RESIZE_NEAREST = 110,
    /* resize_bilinear(x: Tensor, height: Count, width: Count, align_corners: Bool): Images resized by bilinear interpolation. */
    DTTA_OP_RESIZE_BILINEAR = 111,
};

#ifdef __cplusplus
}
#endif

#endif
