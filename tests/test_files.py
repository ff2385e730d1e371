"""Files are whole after a full disk."""

import errno
import os

import pytest

from jaxmlip.files import append, write_atomically


@pytest.fixture
def full_disk(monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield


def test_a_file_is_replaced_and_leaves_nothing_beside_it(tmp_path):
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_keeps_what_stood_there(tmp_path, request):
    path = tmp_path / "a"
    append(path, b"old")
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    with pytest.raises(OSError, match="No space left") as caught:
        append(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]
