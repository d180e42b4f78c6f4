/* The margin of a prediction as an objective: how far the most likely class is ahead of the next (best versus second
 * best; Joshi, Porikli and Papanikolopoulos, CVPR 2009, doi:10.1109/CVPR.2009.5206627), as a hinge
 *
 *     loss = max(0, margin - (p1 - p2))
 *
 * so that a sample that is ahead by `margin` counts for nothing. Built natively and for WebAssembly without a C library. */
#include "margin.h"

const char descriptor[] =
    "{\n"
    "  \"name\": \"margin\",\n"
    "  \"version\": \"0.1.0\",\n"
    "  \"description\": \"Margin: a hinge on how far the most likely class is ahead, written in C\",\n"
    "  \"interface\": \"0.1\",\n"
    "  \"roles\": [\"objective\"],\n"
    "  \"needs\": {\"ops\": [\"affine\", \"mean\", \"narrow\", \"relu\", \"softmax\", \"sub\", \"topk\"]},\n"
    "  \"config_schema\": {\"objective\": {\n"
    "    \"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n"
    "    \"title\": \"MarginConfig\",\n"
    "    \"description\": \"Configuration of the margin objective.\",\n"
    "    \"type\": \"object\",\n"
    "    \"additionalProperties\": false,\n"
    "    \"properties\": {\"margin\": {\n"
    "      \"description\": \"By how much probability the most likely class should be ahead of the next; at 1 every sample "
    "counts.\",\n"
    "      \"type\": \"number\", \"exclusiveMinimum\": 0, \"maximum\": 1, \"default\": 1\n"
    "    }}\n"
    "  }}\n"
    "}\n";

typedef struct text {
    const char *at, *end;
} text;

static void skip_space(text *text) {
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\n' || *text->at == '\r' || *text->at == '\t'))
        text->at++;
}

/* Whether `word` comes next; goes past it if so. */
static int take(text *text, const char *word) {
    skip_space(text);
    const char *at = text->at;
    for (; *word; word++, at++)
        if (at == text->end || *at != *word) return 0;
    text->at = at;
    return 1;
}

static int is_digit(const text *text) { return text->at < text->end && *text->at >= '0' && *text->at <= '9'; }

/* A positive number of at most 15 digits, exact to the last bit: below 2^53 the digits are a double, up to 10^22 the
 * power of ten is one, and a single division or product of two doubles is rounded right. 0 if it is no such number. */
static double take_number(text *text) {
    skip_space(text);
    uint64_t digits = 0;
    int count = 0, exponent = 0, is_fraction = 0;
    for (;; text->at++) {
        if (!is_fraction && text->at < text->end && *text->at == '.') {
            is_fraction = 1;
            continue;
        }
        if (!is_digit(text)) break;
        digits = digits * 10 + (uint64_t)(*text->at - '0');
        if (digits > 0) count++;
        exponent -= is_fraction;
        if (count > 15) return 0;
    }
    if (take(text, "e") || take(text, "E")) {
        int is_negative = take(text, "-"), power = 0;
        if (!is_negative) take(text, "+");
        for (; is_digit(text) && power < 1000; text->at++) power = power * 10 + (*text->at - '0');
        exponent += is_negative ? -power : power;
    }
    int places = exponent < 0 ? -exponent : exponent;
    if (places > 22) return 0;
    double power = 1;
    for (; places > 0; places--) power *= 10;
    return exponent < 0 ? (double)digits / power : (double)digits * power;
}

double parse_config(request *request, const char *config, size_t length) {
    text text = {config, config + length};
    double margin = 1;
    int is_object = take(&text, "{");
    if (is_object && take(&text, "\"margin\"")) margin = take(&text, ":") ? take_number(&text) : 0;
    is_object = is_object && take(&text, "}");
    skip_space(&text);
    if (is_object && text.at == text.end && margin > 0 && margin <= 1) return margin;
    refuse(request, "invalid-config", "expected {\"margin\": x} with 0 < x <= 1 in at most 15 digits");
    return 0;
}

static tensor find(const named *outputs, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        text text = {outputs[i].name, outputs[i].name + outputs[i].length};
        if (take(&text, name) && text.at == text.end) return outputs[i].tensor;
    }
    return NONE;
}

tensor margin_loss(request *request, double margin, const named *outputs, size_t count) {
    tensor logits = find(outputs, count, "logits");
    if (logits == NONE) refuse(request, "unknown-name", "there is no output `logits`");
    tensor best = largest(request, softmax(request, logits, 1), 2, 1);
    tensor first = narrow(request, best, 1, 0, 1), second = narrow(request, best, 1, 1, 1);
    tensor lead = sub(request, first, second);
    tensor lacking = relu(request, affine(request, lead, -1, margin));
    tensor loss = mean_of_each(request, lacking, rank(request, lacking));
    for (size_t i = 0; i < request->count; i++)
        if (request->made[i] != loss) release(request, request->made[i]);
    for (size_t i = 0; i < count; i++) release(request, outputs[i].tensor);
    return loss;
}
