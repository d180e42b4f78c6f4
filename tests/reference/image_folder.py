"""Writes core/data/tests/fixtures/image_folder.json and two images beside it: what torchvision makes of a folder and of its images.

    python tests/reference/image_folder.py       # from the repository root; needs torch, torchvision, pillow

The tree has what folders of images have in practice: a linked class, linked files, names that sort otherwise as text than as paths,
extensions in capitals, files beside the classes, and hidden entries. torchvision counts a hidden folder as a class and AppleDouble files as
images, so its answer is written twice: for the whole tree, and for the tree without what is hidden.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torchvision
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

FIXTURES = Path(__file__).parents[2] / "core/data/tests/fixtures"
FILES = [
    "store/bee/page.tif", "store/bee/page.tiff", "store/bee/photo.webp", "store/bee/plain.pgm", "store/bee/plain.ppm", "store/one.png",
    "root/10/x.png", "root/9/x.png", "root/Zebra/z.png", "root/ant/a.PNG", "root/ant/b.JPG", "root/ant/c.Jpeg", "root/ant/notes.txt",
    "root/ant/deep/x.png", "root/ant/deep/er/x.png", "root/ant/deep-er/x.bmp", "root/ant/a/x.png", "root/cat/c.png",
    "root/class with space/x.png", "root/éclair/x.png", "root/beside.png", "root/README.md",
    "root/.ipynb_checkpoints/a-checkpoint.png", "root/ant/.ipynb_checkpoints/b-checkpoint.png", "root/ant/._a.png", "root/cat/.hidden.jpg",
]
LINKS = {"root/bee": "../store/bee", "root/cat/linked.png": "../../store/one.png", "root/cat/more": "../../store"}


def make(base):
    picture = Image.new("RGB", (4, 4), (200, 100, 50))
    for name in FILES:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".txt", ".md"):
            path.write_text("text")
        else:
            picture.save(path)
    for name, target in LINKS.items():
        (base / name).symlink_to(target)


def answer(root):
    dataset = ImageFolder(root)
    samples = [[Path(path).relative_to(root).as_posix(), label] for path, label in dataset.samples]
    return {"classes": dataset.classes, "samples": samples}


def as_loaded(path):
    image = default_loader(str(path))
    return {"file": path.name, "width": image.width, "height": image.height, "rgb": list(image.tobytes())}


def gradient(mode, size):
    width, height = size
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = [(40 + 20 * channel + 5 * row + 3 * column * (channel + 1)) % 256
              for row in range(height) for column in range(width) for channel in range(channels)]
    return Image.frombytes(mode, size, bytes(values))


def main():
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make(base)
        whole = answer(base / "root")
        for path in sorted((base / "root").rglob(".*"), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        visible = answer(base / "root")

    cmyk, turned = FIXTURES / "cmyk.jpg", FIXTURES / "turned.jpg"
    gradient("CMYK", (16, 8)).save(cmyk, quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees before it is shown
    gradient("RGB", (16, 8)).save(turned, quality=95, exif=exif)
    document = {
        "torchvision": torchvision.__version__.split("+")[0],
        "files": FILES,
        "links": LINKS,
        "whole": whole,
        "without_hidden": visible,
        "images": [as_loaded(cmyk), as_loaded(turned)],
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    (FIXTURES / "image_folder.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
