"""Writing to files so that a full disk or a kill leaves them whole."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside it first, to the disk, then renamed into its place.

    **Raises:** `OSError` where the disk refuses; what stood there before is still there.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Append to a file and hand it to the disk.

    **Raises:** `OSError` with the path where the disk refuses; the file is then as it was.
    """
    with open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError as error:
            os.ftruncate(file.fileno(), before)
            error.filename = str(path)
            raise


def sync_folder(folder: Path) -> None:
    """Hand the names in a folder to the disk: makes a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
