/* The objective of margin.c, and what it asks of either side of the plugin boundary: native/ through the host's C
 * table, wasm/ through the imports of a WebAssembly component. */
#ifndef MARGIN_H
#define MARGIN_H

#include <stddef.h>
#include <stdint.h>

/* A tensor of the running call; NONE after a failure, and every operation on NONE is NONE. */
typedef uint64_t tensor;
#define NONE ((tensor)0)

typedef struct named {
    const char *name;
    size_t length;
    tensor tensor;
} named;

/* One call of the host. */
typedef struct request {
    void *boundary; /* of the side that made it */
    int failed;     /* the first failure has been told */
    tensor made[16];
    size_t count;
} request;

/* margin.c */

extern const char descriptor[]; /* JSON, ends with a zero */

/* The configured margin; 0 after a refusal. */
double parse_config(request *request, const char *config, size_t length);
/* One loss for each sample. Releases all tensors but the loss, its inputs too. */
tensor margin_loss(request *request, double margin, const named *outputs, size_t count);

/* native/boundary.c and wasm/boundary.c */

void refuse(request *request, const char *code, const char *message);
/* How many axes; 0 after a failure. */
unsigned rank(request *request, tensor x);
tensor softmax(request *request, tensor x, int32_t axis);
/* The k largest elements along an axis, largest first. */
tensor largest(request *request, tensor x, uint32_t k, int32_t axis);
tensor narrow(request *request, tensor x, int32_t axis, uint32_t start, uint32_t length);
tensor sub(request *request, tensor x, tensor rhs);
tensor affine(request *request, tensor x, double scale, double offset);
tensor relu(request *request, tensor x);
/* The mean over all axes but the first, of `rank`. */
tensor mean_of_each(request *request, tensor x, unsigned rank);
void release(request *request, tensor x);

#endif
