"""Writes tiny CIFAR files with NumPy, the corrupted ones as CIFAR-10-C has them: run by hand, the results are committed.

    python tests/reference/cifar.py [core/data/tests/fixtures/cifar]

Two test images, so ten rows for five severities. Pixel (row y, column x, channel c) of image i is (7 y + 3 x + 85 c + 40 i) mod 256 in
the binary version, and 20 s more in the corrupted one.
"""

import pathlib
import sys

import numpy

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/data/tests/fixtures/cifar")
OUT.mkdir(parents=True, exist_ok=True)
y, x, c = numpy.indices((32, 32, 3))
images = numpy.stack([(7 * y + 3 * x + 85 * c + 40 * i) % 256 for i in range(2)])
labels = numpy.array([3, 8])

corrupted = numpy.concatenate([(images + 20 * s) % 256 for s in range(1, 6)]).astype(numpy.uint8)
numpy.save(OUT / "fog.npy", corrupted)
numpy.save(OUT / "labels.npy", numpy.tile(labels, 5))
records = [bytes([label]) + image.transpose(2, 0, 1).astype(numpy.uint8).tobytes() for label, image in zip(labels, images)]
(OUT / "test_batch.bin").write_bytes(b"".join(records))
(OUT / "test.bin").write_bytes(b"".join(b"\x01" + record for record in records))
numpy.save(OUT / "fortran.npy", numpy.zeros((2, 3), numpy.uint8, order="F"))
numpy.save(OUT / "floats.npy", numpy.zeros((2, 3), numpy.float32))
