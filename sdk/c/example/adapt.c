/* Runs an experiment, then asks a denoiser for feedback on two images of noise.
 *
 *     cc sdk/c/example/adapt.c -I sdk/c/include target/release/libdtta_c.so -Wl,-rpath,$PWD/target/release -o adapt
 *     ./adapt examples/fashion/online.json runs/c examples/fashion/models/denoiser.json data.stream.samples=10
 */

#include <stdio.h>
#include <stdlib.h>

#include "libdtta.h"

static int failed(const char *what, dtta_status status) {
  fprintf(stderr, "%s: %s\n", what, dtta_last_error());
  return status;
}

static int progress(void *user, size_t done, size_t total) {
  size_t *last = user;
  *last = done;
  return done > total; /* never: 0 goes on */
}

/* A tensor over memory of this program, which nobody has to free. */
static DLManagedTensorVersioned tensor(float *data, int64_t *shape, int32_t axes) {
  DLManagedTensorVersioned made = {.version = {1, 0}};
  made.dl_tensor = (DLTensor){
      .data = data, .device = {kDLCPU, 0}, .ndim = axes, .dtype = {kDLFloat, 32, 1}, .shape = shape};
  return made;
}

static int run(char **arguments, int count) {
  size_t done = 0;
  dtta_run_options options = {
      .overrides = (const char *const *)arguments + 4,
      .override_count = (size_t)count - 4,
      .replace = 1,
      .progress = progress,
      .user = &done,
  };
  char *summary = NULL;
  dtta_status status = dtta_run(arguments[1], arguments[2], &options, &summary);
  if (status != DTTA_STATUS_OK) return failed("run", status);
  printf("%zu samples\n%s\n", done, summary);
  dtta_text_free(summary);
  return 0;
}

enum { BATCH = 2, SIDE = 28, WIDTH = 128 };

static int ask(const dtta_feedback *feedback, int64_t width) {
  float images[BATCH * SIDE * SIDE];
  float *condition = calloc((size_t)(BATCH * width), sizeof *condition);
  if (condition == NULL) return 1;
  for (int n = 0; n < BATCH * SIDE * SIDE; n++) images[n] = (float)(n % 17) / 8.0f - 1.0f;
  for (int n = 0; n < BATCH * width; n++) condition[n] = (float)(n % 5) / 10.0f;
  int64_t of_images[] = {BATCH, 1, SIDE, SIDE}, of_condition[] = {BATCH, width};
  DLManagedTensorVersioned shown = tensor(images, of_images, 4), told = tensor(condition, of_condition, 2);
  const char *ids[] = {"first", "second"}, *slots[] = {"class-embedding"};
  const DLManagedTensorVersioned *conditions[] = {&told};
  float losses[BATCH];
  DLManagedTensorVersioned *gradients[1];
  dtta_status status =
      dtta_feedback_evaluate(feedback, &shown, ids, BATCH, 0, slots, conditions, 1, losses, gradients);
  free(condition);
  if (status != DTTA_STATUS_OK) return failed("feedback", status);
  const float *gradient = gradients[0]->dl_tensor.data;
  printf("loss %.9g %.9g, first of the gradient %.9g\n", losses[0], losses[1], gradient[0]);
  gradients[0]->deleter(gradients[0]);
  return 0;
}

int main(int count, char **arguments) {
  if (count < 4) {
    fprintf(stderr, "usage: adapt EXPERIMENT FOLDER DENOISER [POINTER=VALUE...]\n");
    return DTTA_STATUS_MISUSE;
  }
  printf("dtta %s\n", dtta_version());
  int status = run(arguments, count);
  if (status != 0) return status;
  dtta_denoiser *denoiser = NULL;
  dtta_feedback *feedback = NULL;
  status = dtta_denoiser_open(arguments[3], NULL, &denoiser);
  if (status != DTTA_STATUS_OK) return failed("denoiser", status);
  status = dtta_feedback_open(denoiser, "{\"draws\": 4, \"seed\": 7}", &feedback);
  dtta_denoiser_close(denoiser);
  if (status != DTTA_STATUS_OK) return failed("feedback", status);
  int64_t width = WIDTH;
  status = ask(feedback, width);
  dtta_feedback_close(feedback);
  return status;
}
