"""Makes surface normals of the packed game scenes from their depth: files of format `dtta-packed-sample/2` with the target `normals`.

    python examples/normals/prepare.py examples/doom/data/train.safetensors examples/normals/data/train.safetensors
    python examples/normals/prepare.py examples/doom/data/test-sample.safetensors examples/normals/data/test-sample.safetensors --frames 150

Coordinates are the camera's: x to the right, y down, z into the scene; a normal points to the camera, so its z is below 0. Depth is the
distance along z, as the game's renderer has it. The field of view is ViZDoom's, 90 degrees across. Only numpy is needed.
"""

import argparse
import json
import pathlib

import numpy

FIELD_OF_VIEW = 90.0  # degrees, across
FARTHEST = 127  # the sky, and what is as far
JUMP = 1.1  # neighbours whose depths differ by a larger factor lie on different surfaces
SCALE = 1 / 16384  # of a stored number; what is stored is 16384 (n + 1) + 1, since 0 in all channels means that nothing is known


def read(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header.pop("__metadata__")["dtta"])
    types = {"U8": numpy.uint8, "U16": numpy.dtype("<u2")}
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        flat = numpy.frombuffer(data[8 + length + start : 8 + length + end], types[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, description


def write(path, tensors, description):
    header, offset, parts = {"__metadata__": {"dtta": json.dumps(description)}}, 0, []
    for name, tensor in tensors.items():
        part = tensor.tobytes()
        kind = {"uint8": "U8", "uint16": "U16"}[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(part)]}
        parts.append(part)
        offset += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def shifted(x, down, right, fill):
    """What lies `down` rows below and `right` columns to the right; `fill` beyond the border."""
    rows, columns = x.shape
    padded = numpy.pad(x, 2, constant_values=fill)
    return padded[2 + down : 2 + down + rows, 2 + right : 2 + right + columns]


def smoothed(inverse, known):
    """The mean of 1 / depth over the 3 x 3 neighbours on the same surface. 1 / depth of a plane is linear in the picture, so a plane stays
    the plane it is while the steps of 8-bit depth are averaged."""
    total, count = numpy.zeros_like(inverse), numpy.zeros_like(inverse)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            other, there = shifted(inverse, down, right, 1.0), shifted(known, down, right, False)
            opposite, behind = shifted(inverse, -down, -right, 1.0), shifted(known, -down, -right, False)
            # Both of a pair or none, so that the mean stays where it is.
            near = there & behind & alike(other, inverse) & alike(opposite, inverse)
            total += numpy.where(near, other, 0.0)
            count += near
    return numpy.where(count > 0, total / numpy.maximum(count, 1), inverse)


def alike(a, b):
    return numpy.maximum(a, b) < JUMP * numpy.minimum(a, b)


def normals(depth):
    """Unit normals `[3, H, W]` of a depth map, (0, 0, 0) where there is none."""
    rows, columns = depth.shape
    known = (depth > 0) & (depth < FARTHEST)
    inverse = 1.0 / numpy.where(known, depth, 1.0)
    for _ in range(2):
        inverse = smoothed(inverse, known)
    z = 1.0 / inverse
    focal = columns / 2 / numpy.tan(numpy.radians(FIELD_OF_VIEW) / 2)
    x = (numpy.arange(columns) + 0.5 - columns / 2)[None, :] / focal
    y = (numpy.arange(rows) + 0.5 - rows / 2)[:, None] / focal
    points = numpy.stack([x * z, y * z, z])
    valid = known.copy()
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        valid &= shifted(known, down, right, False) & alike(shifted(inverse, down, right, 1.0), inverse)
    across = numpy.stack([shifted(p, 0, 1, 0.0) - shifted(p, 0, -1, 0.0) for p in points])
    down = numpy.stack([shifted(p, 1, 0, 0.0) - shifted(p, -1, 0, 0.0) for p in points])
    found = numpy.cross(across, down, axis=0)
    length = numpy.linalg.norm(found, axis=0)
    valid &= length > 0
    found = found / numpy.where(valid, length, 1.0)
    # To the camera: against the ray through the pixel.
    away = (found * points).sum(0) > 0
    found = numpy.where(away, -found, found)
    return numpy.where(valid, found, 0.0)


def stored(normal):
    valid = (normal != 0).any(0)
    raw = numpy.rint((normal + 1) / SCALE) + 1
    return numpy.where(valid, raw, 0).astype("<u2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=pathlib.Path, help="packed frames with depth, as examples/doom/render.py writes them")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--frames", type=int, help="take so many, spread evenly; all if absent")
    arguments = parser.parse_args()
    tensors, description = read(arguments.scenes)
    total = len(description["ids"])
    chosen = numpy.arange(total)
    if arguments.frames is not None:
        chosen = numpy.linspace(0, total - 1, min(arguments.frames, total)).round().astype(int)
    depths = tensors["depths"]
    scale = description["depth_scale"]
    maps = numpy.stack([stored(normals(depths[n].astype(numpy.float64) * scale)) for n in chosen])
    known = (maps != 0).any(1).mean()
    target = {"tensor": "normals", "values": {"kind": "number_map", "scale": SCALE, "offset": -1 - SCALE, "negated_by_flip": [0]}}
    provenance = dict(description["provenance"])
    provenance["source"] += "; normals computed from its depth"
    described = {
        "format": "dtta-packed-sample/2",
        "provenance": provenance,
        "class_names": [],
        "ids": [description["ids"][n] for n in chosen],
        "targets": {"normals": target},
    }
    write(arguments.output, {"images": tensors["images"][chosen], "normals": maps}, described)
    print(f"{arguments.output}: {len(chosen)} frames, normals known for {known:.1%} of the pixels")


if __name__ == "__main__":
    main()
