"""Writing that never leaves a half-written file under its final name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_relu.errors import KerasReLUError, UserError

if TYPE_CHECKING:
    import numpy as np

_BLOCK_BYTES = 1 << 20

__all__ = ["atomic_path", "existing_file", "read_arrays", "read_json", "sha256", "write_json", "write_text"]


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike, *, suffix: str = "") -> Iterator[Path]:
    """A temporary path beside `target` (file or directory) that becomes `target` when the block ends well.

    On any error the temporary is removed and an existing `target` is untouched. The name keeps the suffix of the
    target, since Keras chooses a format by it.

    Raises:
        KerasReLUError: the disk is full or the directory is not writable.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise KerasReLUError(f"Cannot write {target}: {error.strerror or error}.") from error
    temporary = scratch / (target.stem + (suffix or target.suffix))
    try:
        yield temporary
        _replace(temporary, target, scratch)
    except OSError as error:
        raise KerasReLUError(f"Cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(temporary: Path, target: Path, scratch: Path) -> None:
    if target.is_dir():
        # A directory cannot be replaced in one call: move the old one aside first, so that one of the two is always whole.
        os.rename(target, scratch / "replaced")
    os.replace(temporary, target)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused because other readers cannot parse it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def existing_file(path: str | os.PathLike, kind: str = "file") -> Path:
    """`path` when it exists, otherwise a UserError that names it."""
    if not Path(path).exists():
        raise UserError(f"The {kind} {str(path)!r} does not exist.")
    return Path(path)


def read_json(path: str | os.PathLike, kind: str = "JSON file") -> Any:
    """The parsed content of a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(existing_file(path, kind).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"The {kind} {str(path)!r} is not valid JSON: {error}.") from error


def read_arrays(path: str | os.PathLike, kind: str = "file of arrays") -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Raises:
        UserError: the file is missing or damaged, or holds other objects than arrays.
    """
    import numpy as np

    try:
        with np.load(existing_file(path, kind), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"The {kind} {str(path)!r} cannot be read: {error}.") from error


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()
