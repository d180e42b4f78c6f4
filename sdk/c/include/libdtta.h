/* dtta as a library: experiments as the command runs them, and diffusion feedback for a program's own models.
 *
 * Made by cbindgen from sdk/c/src. Texts are UTF-8 and end with 0. A function that can fail answers a dtta_status, and dtta_last_error() says
 * what is wrong. Every object may be used from any thread, by one at a time; dtta_last_error() is the calling thread's own.
 * Tensors are DLPack's of version 1: 32-bit floats in the memory of the CPU. Include "dlpack/dlpack.h" before this file if you have it. */


#ifndef LIBDTTA_H
#define LIBDTTA_H

#include <stddef.h>
#include <stdint.h>

#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_
/* The part of dlpack.h that is needed here. */
typedef struct { uint32_t major; uint32_t minor; } DLPackVersion;
typedef enum { kDLCPU = 1, kDLCUDAHost = 3 } DLDeviceType;
typedef struct { int32_t device_type; int32_t device_id; } DLDevice;
typedef enum { kDLFloat = 2U } DLDataTypeCode;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *self);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;
#endif


/*
 How a call ended. The numbers are the command's exit codes.
 */
typedef enum dtta_status {
  /*
   It is done.
   */
  DTTA_STATUS_OK = 0,
  /*
   It failed, and the caller cannot mend it by another argument.
   */
  DTTA_STATUS_FAILED = 1,
  /*
   The caller can mend it: a file, a setting, a shape, a null pointer.
   */
  DTTA_STATUS_MISUSE = 2,
  /*
   It is done, but samples were skipped.
   */
  DTTA_STATUS_SKIPPED = 3,
  /*
   The caller asked it to stop, or another process works in the folder: the same call goes on, with `resume`.
   */
  DTTA_STATUS_TRY_AGAIN = 75,
} dtta_status;

/*
 A denoiser with its weights, on the CPU.
 */
typedef struct dtta_denoiser dtta_denoiser;

/*
 Draws of timestep and noise through a denoiser.
 */
typedef struct dtta_feedback dtta_feedback;

/*
 How an experiment runs. All zero is a run of all of it on the CPU that replaces nothing.
 */
typedef struct dtta_run_options {
  /*
   Values in the place of the file's, such as "method.steps=3".
   */
  const char *const *overrides;
  /*
   How many there are.
   */
  size_t override_count;
  /*
   Device, such as "cpu"; null for the CPU.
   */
  const char *device;
  /*
   Continues a run that was stopped, and answers that of a finished one. A shard always does.
   */
  int resume;
  /*
   Removes what is in the folder first.
   */
  int replace;
  /*
   Shard, from 0; of how many, 0 for all of it.
   */
  uint32_t shard;
  /*
   Shards.
   */
  uint32_t shard_count;
  /*
   Called after each sample by the thread of the call, with samples that are done and all. What is not 0 stops the run. May be null.
   */
  int (*progress)(void *user, size_t done, size_t total);
  /*
   Handed to `progress`.
   */
  void *user;
} dtta_run_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of the library, such as "0.1.0".
 */
const char *dtta_version(void);

/*
 Loads a denoiser: its configuration (one of dtta's, or a folder of diffusers), and its weights; null for those beside it.

 # Safety
 `config` is a text, `weights` one or null; `denoiser` may be written to.
 */
enum dtta_status dtta_denoiser_open(const char *config, const char *weights, struct dtta_denoiser **denoiser);

/*
 Frees a denoiser; feedback that was made of it stays. Null is nothing.

 # Safety
 It is one that was opened, and not closed yet.
 */
void dtta_denoiser_close(struct dtta_denoiser *denoiser);

/*
 Feedback through a denoiser. `settings` is JSON, null or "{}" for the defaults:
 {"draws": 8, "micro_batch": 32, "timesteps": {...}, "seed": 0, "loss": ..., "noise": ...}, as `method` of an experiment has them.

 # Safety
 `denoiser` is one that is open, `settings` a text or null; `feedback` may be written to.
 */
enum dtta_status dtta_feedback_open(const struct dtta_denoiser *denoiser, const char *settings, struct dtta_feedback **feedback);

/*
 Frees feedback; null is nothing.

 # Safety
 It is such that was opened, and not closed yet.
 */
void dtta_feedback_close(struct dtta_feedback *feedback);

/*
 The loss of each image, averaged over draws and elements, and the gradient of their sum with respect to each slot of the condition.

 `images` is [batch, C, H, W]; `ids` names each image, and with the seed and `step` keys its draws: the same three give the same draws, whatever
 else is asked for beside them. `condition` holds a tensor of `batch` rows for each of `slots`, the names of the denoiser's slots. `losses`
 receives `batch` numbers, and `gradients` a tensor for each slot, which the caller frees by its `deleter`. Tensors of the caller are
 read during the call and stay the caller's.

 # Safety
 Pointers lead to as much as is said here; tensors are DLPack's, whose memory nobody writes to during the call.
 */
enum dtta_status dtta_feedback_evaluate(const struct dtta_feedback *feedback,
                                        const DLManagedTensorVersioned *images,
                                        const char *const *ids,
                                        size_t batch,
                                        size_t step,
                                        const char *const *slots,
                                        const DLManagedTensorVersioned *const *condition,
                                        size_t slot_count,
                                        float *losses,
                                        DLManagedTensorVersioned **gradients);

/*
 Holds an experiment to its schema and to itself, with every fault at once; nothing is loaded.

 # Safety
 `experiment` is a text; `overrides` are `override_count` texts.
 */
enum dtta_status dtta_validate(const char *experiment, const char *const *overrides, size_t override_count);

/*
 Runs an experiment into the folder `out`, as `dtta run` does.

 `summary`, where it is not null, receives the summary as JSON, which `dtta_text_free` frees.

 # Safety
 `experiment` and `out` are texts; `options` is null or holds what its fields say; `summary` is null or may be written to.
 */
enum dtta_status dtta_run(const char *experiment, const char *out, const struct dtta_run_options *options, char **summary);

/*
 Frees a text that the library answered; null is nothing.

 # Safety
 It is such a text, and not freed yet.
 */
void dtta_text_free(char *text);

/*
 What the last call of this thread that failed said. It stays until the next one fails; "" if none has.
 */
const char *dtta_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LIBDTTA_H */
