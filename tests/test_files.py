"""Files appear whole under their final name or not at all."""

import hashlib
import os

import pytest

from keras_relu import files
from keras_relu.errors import KerasReLUError, UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_half(target, error):
    """Write a part of the file, then fail."""
    with files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error


def test_text_and_json_are_written_whole(tmp_path):
    files.write_text(tmp_path / "deep" / "a.txt", "été\n")
    files.write_json(tmp_path / "b.json", {"a": [1, 2.5, None]})
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "été\n"
    assert files.read_json(tmp_path / "b.json") == {"a": [1, 2.5, None]}
    assert names(tmp_path) == ["b.json", "deep"]


def test_the_temporary_name_keeps_the_suffix_and_lies_in_the_same_folder_tree(tmp_path):
    with files.atomic_path(tmp_path / "model.keras") as temporary:
        assert temporary.suffix == ".keras"
        assert temporary.parent.parent == tmp_path
        temporary.write_text("x")
    assert names(tmp_path) == ["model.keras"]


def test_an_error_leaves_the_old_file_and_no_remains(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(target, ZeroDivisionError())
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    target = tmp_path / "saved"
    for content in ("first", "second"):
        with files.atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / f"{content}.txt").write_text(content)
    assert names(target) == ["second.txt"]
    assert names(tmp_path) == ["saved"]


def test_a_block_that_writes_nothing_is_an_error_not_an_empty_file(tmp_path):
    with pytest.raises(KerasReLUError, match="Cannot write"), files.atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KerasReLUError, match=r"Cannot write .*file.a\.txt"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path):
    with pytest.raises(KerasReLUError, match="No space left"):
        write_half(tmp_path / "a.txt", OSError(28, os.strerror(28)))
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_other_readers_cannot_parse_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"accuracy": value})
    assert names(tmp_path) == []


def test_existing_file(tmp_path):
    (tmp_path / "a").write_text("")
    assert files.existing_file(str(tmp_path / "a")) == tmp_path / "a"
    with pytest.raises(UserError, match=r"The teacher '.*b' does not exist\."):
        files.existing_file(tmp_path / "b", "teacher")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"The result '.*a\.json' is not valid JSON"):
        files.read_json(tmp_path / "a.json", "result")


def test_a_folder_is_not_json(tmp_path):
    with pytest.raises(UserError, match="not valid JSON"):
        files.read_json(tmp_path)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"x" * 100_000).hexdigest()


def test_python_3_10_is_promised_so_nothing_newer_is_used(tmp_path, monkeypatch):
    monkeypatch.delattr(hashlib, "file_digest", raising=False)
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
