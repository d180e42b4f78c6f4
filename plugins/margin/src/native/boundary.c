/* The objective as a shared library: its tables, and its operations through the host's table. */
#include <dtta.h>
#include <stdlib.h>
#include <string.h>

#include "../margin.h"

struct dtta_instance {
    double margin;
};

/* What a request stands on here. */
typedef struct boundary {
    dtta_call *call;
    const dtta_sink *error;
} boundary;

static void write_error(const dtta_sink *error, const char *code, const char *message) {
    if (!error) return;
    error->write(error->context, (dtta_bytes){(const uint8_t *)code, strlen(code) + 1}); /* its zero is the mark */
    error->write(error->context, (dtta_bytes){(const uint8_t *)message, strlen(message)});
}

void refuse(request *request, const char *code, const char *message) {
    const boundary *boundary = request->boundary;
    if (!request->failed) write_error(boundary->error, code, message);
    request->failed = 1;
}

unsigned rank(request *request, tensor x) {
    const boundary *boundary = request->boundary;
    dtta_tensor_info info;
    if (request->failed) return 0;
    request->failed = boundary->call->host->info(boundary->call, x, &info, boundary->error) != DTTA_STATUS_OK;
    return request->failed ? 0 : info.rank;
}

/* An operation of up to two results, of which it gives the first. */
static tensor apply(request *request, uint32_t opcode, const tensor *inputs, size_t input_count,
                    const dtta_attr *attributes, size_t attribute_count, size_t output_count) {
    const boundary *boundary = request->boundary;
    tensor outputs[2];
    if (request->failed) return NONE;
    dtta_status status = boundary->call->host->op(boundary->call, opcode, inputs, input_count, attributes,
                                                  attribute_count, outputs, output_count, boundary->error);
    request->failed = status != DTTA_STATUS_OK;
    if (request->failed) return NONE;
    for (size_t i = 0; i < output_count; i++) request->made[request->count++] = outputs[i];
    return outputs[0];
}

static dtta_attr whole(int64_t value) { return (dtta_attr){DTTA_ATTR_TAG_INT, 0, (uint64_t)value, NULL}; }

static dtta_attr real(double value) {
    dtta_attr attribute = {DTTA_ATTR_TAG_FLOAT, 0, 0, NULL};
    memcpy(&attribute.bits, &value, sizeof value);
    return attribute;
}

tensor softmax(request *request, tensor x, int32_t axis) {
    dtta_attr attributes[] = {whole(axis)};
    return apply(request, DTTA_OP_SOFTMAX, &x, 1, attributes, 1, 1);
}

tensor largest(request *request, tensor x, uint32_t k, int32_t axis) {
    dtta_attr attributes[] = {whole(k), whole(axis)};
    return apply(request, DTTA_OP_TOPK, &x, 1, attributes, 2, 2);
}

tensor narrow(request *request, tensor x, int32_t axis, uint32_t start, uint32_t length) {
    dtta_attr attributes[] = {whole(axis), whole(start), whole(length)};
    return apply(request, DTTA_OP_NARROW, &x, 1, attributes, 3, 1);
}

tensor sub(request *request, tensor x, tensor rhs) {
    tensor inputs[] = {x, rhs};
    return apply(request, DTTA_OP_SUB, inputs, 2, NULL, 0, 1);
}

tensor affine(request *request, tensor x, double scale, double offset) {
    dtta_attr attributes[] = {real(scale), real(offset)};
    return apply(request, DTTA_OP_AFFINE, &x, 1, attributes, 2, 1);
}

tensor relu(request *request, tensor x) { return apply(request, DTTA_OP_RELU, &x, 1, NULL, 0, 1); }

tensor mean_of_each(request *request, tensor x, unsigned rank) {
    static const int64_t axes[] = {1, 2, 3, 4, 5};
    dtta_attr attributes[] = {
        {DTTA_ATTR_TAG_INTS, 0, rank ? rank - 1 : 0, axes},
        {DTTA_ATTR_TAG_BOOL, 0, 0, NULL},
    };
    return apply(request, DTTA_OP_MEAN, &x, 1, attributes, 2, 1);
}

void release(request *request, tensor x) {
    const boundary *boundary = request->boundary;
    boundary->call->host->release(boundary->call, x);
}

static dtta_status create(dtta_call *call, dtta_bytes config, dtta_instance **instance, const dtta_sink *error) {
    boundary boundary = {call, error};
    request request = {.boundary = &boundary};
    double margin = parse_config(&request, (const char *)config.ptr, config.len);
    if (request.failed) return DTTA_STATUS_ERROR;
    *instance = malloc(sizeof **instance);
    if (!*instance) {
        write_error(error, "plugin", "there is no memory left");
        return DTTA_STATUS_ERROR;
    }
    (*instance)->margin = margin;
    return DTTA_STATUS_OK;
}

static void destroy(dtta_instance *instance) { free(instance); }

static dtta_status loss(dtta_instance *instance, dtta_call *call, const dtta_named_tensor *outputs, size_t output_count,
                        dtta_tensor_id *loss, const dtta_sink *error) {
    boundary boundary = {call, error};
    request request = {.boundary = &boundary};
    named *named = calloc(output_count + 1, sizeof *named);
    if (!named) {
        write_error(error, "plugin", "there is no memory left");
        return DTTA_STATUS_ERROR;
    }
    for (size_t i = 0; i < output_count; i++) {
        named[i].name = (const char *)outputs[i].name.ptr;
        named[i].length = outputs[i].name.len;
        named[i].tensor = outputs[i].tensor;
    }
    tensor made = margin_loss(&request, instance->margin, named, output_count);
    free(named);
    if (request.failed) return DTTA_STATUS_ERROR;
    *loss = made;
    return DTTA_STATUS_OK;
}

static dtta_status describe(const dtta_sink *document, const dtta_sink *error) {
    (void)error;
    document->write(document->context, (dtta_bytes){(const uint8_t *)descriptor, strlen(descriptor)});
    return DTTA_STATUS_OK;
}

static const dtta_objective_table objective = {sizeof objective, create, destroy, loss};

dtta_status dtta_plugin_entry(const dtta_host_table *host, dtta_plugin_table *out, const dtta_sink *error) {
    if (host->header.abi_major != DTTA_ABI_MAJOR || host->header.abi_minor != DTTA_ABI_MINOR) {
        write_error(error, "interface-version", "the plugin is made for native interface " DTTA_INTERFACE);
        return DTTA_STATUS_UNSUPPORTED;
    }
    dtta_plugin_table table = {.describe = describe, .objective = &objective};
    size_t room = out->header.size;
    size_t size = room < sizeof table ? room : sizeof table;
    table.header = (dtta_header){size, DTTA_ABI_MAJOR, DTTA_ABI_MINOR};
    memcpy(out, &table, size);
    return DTTA_STATUS_OK;
}
