"""Adapts a classifier of PyTorch online, one image at a time, with the draws of each image split over Ray's workers. However many there are,
the classifier's weights come out the same to the bit.

    pip install ray torch numpy safetensors wheels/*.whl       # the last is dtta's own: sdk/python/README.md
    python examples/cluster/ray_draws.py [--workers 1 2 3] [--draws 24] [--micro-batch 4] [--images 3] [--steps 2] [--address ADDRESS]

A step sends each worker the image and the condition, and gets back the gradient of the loss with respect to the condition, a few times (see
README.md): the classifier stays here, and the denoiser there. A worker that is lost is started again, and what it was asked is asked again.
"""

import argparse
import hashlib
import pathlib
import time

import numpy
import ray
import torch
from safetensors.torch import load_file
from torch import nn

import dtta
import dtta.torch

FASHION = pathlib.Path(__file__).resolve().parent.parent / "fashion"


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Worker:
    """A denoiser, and draws through it."""

    def __init__(self, path, settings):
        self.denoiser = dtta.Denoiser(path)
        self.feedback = dtta.Feedback(self.denoiser, **settings)

    def split(self, workers):
        return self.feedback.split(workers)

    def class_embeddings(self):
        return numpy.from_dlpack(self.denoiser.constants()["class-embeddings"]).copy()

    def part(self, draws, *question):
        return self.feedback.part(*question, draws=draws)


class Workers:
    """What `dtta.torch.feedback` asks as if it were one `dtta.Feedback`."""

    def __init__(self, count, path, settings):
        self.workers = [Worker.remote(path, settings) for _ in range(count)]
        # There may be fewer micro-batches than workers.
        self.draws = ray.get(self.workers[0].split.remote(count))

    def __call__(self, images, condition, ids, step=0):
        question = [ray.put(images.numpy()), ray.put(condition.numpy()), ids, step]
        parts = [worker.part.remote(draws, *question) for worker, draws in zip(self.workers, self.draws)]
        return dtta.sum_parts(ray.get(parts))

    def stop(self):
        for worker in self.workers:
            ray.kill(worker)


def adapt(feedback, table, images, steps):
    """Follows the images with a new classifier, and answers with its weights."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(len(table)))
    classifier(images[:1])
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.05, momentum=0.9)
    for place, image in enumerate(images.split(1)):
        for step in range(steps):
            condition = classifier(image).softmax(-1) @ table
            loss = dtta.torch.feedback(feedback, image, condition, [f"image-{place}"], step).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"  image {place}: loss {loss.item():.7f}")
    return [parameter.detach() for parameter in classifier.parameters()]


def main():
    parser = argparse.ArgumentParser(description="Adapts a classifier with draws split over Ray's workers.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3], help="how many; several numbers are compared")
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--address", help="of a cluster; one on this machine, if absent")
    arguments = parser.parse_args()

    torch.use_deterministic_algorithms(True)
    data = load_file(FASHION / "data/test-sample.safetensors")
    images = data["images"][: arguments.images].float().reshape(-1, 1, 28, 28) / 127.5 - 1
    settings = {"draws": arguments.draws, "micro_batch": arguments.micro_batch, "seed": 0, "timesteps": {"sampler": "stratified", "range": [350, 750]}}
    # Workers share this machine's processors in any number; a cluster says what each takes.
    ray.init(address=arguments.address, num_cpus=None if arguments.address else max(arguments.workers), log_to_driver=False)
    digests = set()
    for count in arguments.workers:
        workers = Workers(count, str(FASHION / "models/denoiser.json"), settings)
        table = torch.from_numpy(ray.get(workers.workers[0].class_embeddings.remote()).copy())
        begun = time.perf_counter()
        weights = adapt(workers, table, images, arguments.steps)
        digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()
        print(f"{count} workers: {time.perf_counter() - begun:.1f} s, SHA-256 of the weights {digest[:16]}")
        digests.add(digest)
        workers.stop()
    ray.shutdown()
    if len(digests) > 1:
        raise SystemExit("the weights differ")


if __name__ == "__main__":
    main()
