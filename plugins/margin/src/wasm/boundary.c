/* The objective as a WebAssembly component: the functions of wit/ in the canonical ABI of the component model, by hand.
 * A list is a pointer and a length; a result that does not fit one number is written to memory, a case first and what it
 * carries from byte 4 on. `dtta plugins build` makes the component from the module and wit/. */
#include "../margin.h"

#define PACKAGE(interface) "dtta:plugin/" interface "@0.1.0"
#define IMPORT(interface, name) __attribute__((import_module(interface), import_name(name))) extern
#define EXPORT(interface, name) __attribute__((export_name(PACKAGE(interface) "#" name)))
#define AFTER(interface, name) __attribute__((export_name("cabi_post_" PACKAGE(interface) "#" name)))

/* list<u8>, string */
typedef struct list {
    const void *at;
    uint32_t length;
} list;

/* record error */
typedef struct error {
    list code, message;
} error;

/* result<tensor, error>, result<objective, error> */
typedef struct result {
    uint8_t is_error;
    union {
        uint32_t handle;
        error error;
    };
} result;

/* result<tuple<tensor, tensor>, error> */
typedef struct pair_result {
    uint8_t is_error;
    union {
        uint32_t handles[2];
        error error;
    };
} pair_result;

/* named-tensor */
typedef struct entry {
    list name;
    uint32_t handle;
} entry;

_Static_assert(sizeof(list) == 8 && sizeof(result) == 20 && sizeof(pair_result) == 20 && sizeof(entry) == 12,
               "the canonical ABI lays these out so");

IMPORT(PACKAGE("tensor"), "[method]tensor.shape") void import_shape(uint32_t x, list *out);
IMPORT(PACKAGE("tensor"), "[method]tensor.softmax") void import_softmax(uint32_t x, int32_t axis, result *out);
IMPORT(PACKAGE("tensor"), "[method]tensor.topk")
void import_topk(uint32_t x, uint32_t k, int32_t axis, pair_result *out);
IMPORT(PACKAGE("tensor"), "[method]tensor.narrow")
void import_narrow(uint32_t x, int32_t axis, uint32_t start, uint32_t length, result *out);
IMPORT(PACKAGE("tensor"), "[method]tensor.sub") void import_sub(uint32_t x, uint32_t rhs, result *out);
IMPORT(PACKAGE("tensor"), "[method]tensor.affine")
void import_affine(uint32_t x, double scale, double offset, result *out);
IMPORT(PACKAGE("tensor"), "[method]tensor.relu") void import_relu(uint32_t x, result *out);
IMPORT(PACKAGE("tensor"), "[method]tensor.mean")
void import_mean(uint32_t x, const int32_t *axes, uint32_t count, uint32_t keep, result *out);
IMPORT(PACKAGE("tensor"), "[resource-drop]tensor") void import_drop(uint32_t x);
IMPORT("[export]" PACKAGE("objective"), "[resource-new]objective") uint32_t import_new(uint32_t rep);

/* What the host writes into this memory (names, configurations, messages) lies in one arena, from which allocation only
 * goes up; a call that returned starts over. More than fits is a trap, which the host reports. */
static _Alignas(8) unsigned char arena[1 << 16];
static uint32_t used;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, uint32_t old_size, uint32_t align,
                                                                uint32_t size) {
    uint32_t start = (used + align - 1) & ~(align - 1);
    if (old_size > 0 || align > 8 || start > sizeof arena || size > sizeof arena - start) __builtin_trap();
    (void)old;
    used = start + size;
    return arena + start;
}

static list list_of(const char *text) {
    uint32_t length = 0;
    while (text[length]) length++;
    return (list){text, length};
}

/* What a request stands on here: the first error, as the host will read it. */
static error told;

void refuse(request *request, const char *code, const char *message) {
    if (!request->failed) told = (error){list_of(code), list_of(message)};
    request->failed = 1;
}

/* Takes the result of an import. */
static tensor made(request *request, const result *result) {
    if (result->is_error) {
        told = result->error;
        request->failed = 1;
        return NONE;
    }
    request->made[request->count++] = result->handle;
    return result->handle;
}

unsigned rank(request *request, tensor x) {
    list shape;
    if (request->failed) return 0;
    import_shape((uint32_t)x, &shape);
    return shape.length;
}

tensor softmax(request *request, tensor x, int32_t axis) {
    result out;
    if (request->failed) return NONE;
    import_softmax((uint32_t)x, axis, &out);
    return made(request, &out);
}

tensor largest(request *request, tensor x, uint32_t k, int32_t axis) {
    pair_result out;
    if (request->failed) return NONE;
    import_topk((uint32_t)x, k, axis, &out);
    if (!out.is_error) request->made[request->count++] = out.handles[1];
    result first = {.is_error = out.is_error, .error = out.error};
    return made(request, &first);
}

tensor narrow(request *request, tensor x, int32_t axis, uint32_t start, uint32_t length) {
    result out;
    if (request->failed) return NONE;
    import_narrow((uint32_t)x, axis, start, length, &out);
    return made(request, &out);
}

tensor sub(request *request, tensor x, tensor rhs) {
    result out;
    if (request->failed) return NONE;
    import_sub((uint32_t)x, (uint32_t)rhs, &out);
    return made(request, &out);
}

tensor affine(request *request, tensor x, double scale, double offset) {
    result out;
    if (request->failed) return NONE;
    import_affine((uint32_t)x, scale, offset, &out);
    return made(request, &out);
}

tensor relu(request *request, tensor x) {
    result out;
    if (request->failed) return NONE;
    import_relu((uint32_t)x, &out);
    return made(request, &out);
}

tensor mean_of_each(request *request, tensor x, unsigned rank) {
    static const int32_t axes[] = {1, 2, 3, 4, 5};
    result out;
    if (request->failed) return NONE;
    import_mean((uint32_t)x, axes, rank ? rank - 1 : 0, 0, &out);
    return made(request, &out);
}

void release(request *request, tensor x) {
    (void)request;
    import_drop((uint32_t)x);
}

/* What the host reads a result from, once the function has returned. */
static result answer;
static list answered_text;

/* Configured objectives: what the host holds is a place here. */
static double margins[64];

EXPORT("descriptor", "describe") list *describe(void) {
    answered_text = list_of(descriptor);
    return &answered_text;
}

EXPORT("objective", "[static]objective.create") result *create(const char *config, uint32_t length) {
    request request = {0};
    double margin = parse_config(&request, config, length);
    uint32_t place = 0;
    while (place < 64 && margins[place] > 0) place++;
    if (place == 64) refuse(&request, "plugin", "one instance holds 64 objectives, not more");
    answer.is_error = (uint8_t)request.failed;
    if (request.failed) {
        answer.error = told;
    } else {
        margins[place] = margin;
        answer.handle = import_new(place);
    }
    return &answer;
}

EXPORT("objective", "[dtor]objective") void destroy(uint32_t place) { margins[place] = 0; }

EXPORT("objective", "[method]objective.loss") result *loss(uint32_t place, const entry *outputs, uint32_t count) {
    request request = {0};
    named *named = cabi_realloc(0, 0, _Alignof(struct named), count * (uint32_t)sizeof(struct named));
    for (uint32_t i = 0; i < count; i++) {
        named[i].name = outputs[i].name.at;
        named[i].length = outputs[i].name.length;
        named[i].tensor = outputs[i].handle;
    }
    tensor made = margin_loss(&request, margins[place], named, count);
    answer.is_error = (uint8_t)request.failed;
    if (request.failed) {
        answer.error = told;
    } else {
        answer.handle = (uint32_t)made;
    }
    return &answer;
}

AFTER("descriptor", "describe") void after_describe(list *text) {
    (void)text;
    used = 0;
}

AFTER("objective", "[static]objective.create") void after_create(result *result) {
    (void)result;
    used = 0;
}

AFTER("objective", "[method]objective.loss") void after_loss(result *result) {
    (void)result;
    used = 0;
}
