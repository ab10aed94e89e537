"""Index files: the original's format, the manifest beside it, and everything that may be wrong with them."""

import json
import pickle

import pytest

from keras_relu.decomposition.tables import (
    FilterTable,
    expand_paths,
    manifest_path,
    read_table,
    table_path,
    write_table,
)
from keras_relu.errors import UserError

ROWS = [[3, 1], [0, 2]]
FACTS = {"filters": 4, "classes": 2, "rule": "frequency", "layer": "pool", "dataset": "digits", "top_k": 2}


def test_written_and_read(tmp_path):
    path = tmp_path / "indices.json"
    write_table(path, FilterTable(ROWS, FACTS))
    assert path.read_text() == '{"0": [3, 1], "1": [0, 2]}'
    table = read_table(path, classes=2, filters=4)
    assert table.rows == ROWS
    assert {key: table.facts[key] for key in FACTS} == FACTS
    assert table.describe() == {"file": str(path), "top_k": 2, "rule": "frequency", "layer": "pool"}
    assert table.membership().tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_published_file_is_reproduced_byte_for_byte(published_file, tmp_path):
    table = read_table(published_file)
    assert (table.classes, table.top_k, table.filters(), table.facts) == (10, 5, 64, {})
    write_table(tmp_path / "again.json", FilterTable(table.rows))
    assert (tmp_path / "again.json").read_bytes() == published_file.read_bytes()
    assert published_file.stat().st_size == 261
    assert table.rows[0] == [7, 23, 54, 50, 22]


def test_lists_of_different_length(tmp_path):
    path = tmp_path / "indices.json"
    path.write_text('{"0": [1, 2, 3], "1": [0]}')
    assert read_table(path).top_k == 2
    write_table(path, FilterTable([[1, 2], [0]], {**FACTS, "top_k": 0.4}))
    assert read_table(path).top_k == 0.4
    path.write_text('{"0": [1, 2], "1": [0]}')
    manifest_path(path).unlink()
    assert read_table(path).top_k == 1.5


def test_family_of_files(tmp_path):
    for size in (10, 5, 0.5):
        write_table(table_path(tmp_path / "indices.json", size, several=True), FilterTable(ROWS, FACTS))
    names = [path.name for path in expand_paths([tmp_path / "indices.json"])]
    assert names == ["indices_0.5.json", "indices_5.json", "indices_10.json"]
    (tmp_path / "indices_1.2.3.json").touch()
    assert len(expand_paths([tmp_path / "indices.json"])) == 3
    close = [table_path("indices.json", size, several=True) for size in (0.1234567, 0.1234568)]
    assert close[0] != close[1]
    assert table_path("a/indices.json", 5, several=False).name == "indices.json"
    assert manifest_path(tmp_path / "indices_0.5.json").name == "indices_0.5.manifest.json"
    with pytest.raises(UserError, match=r"other\.json' does not exist"):
        expand_paths([tmp_path / "other.json"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"0": [1], "0": [2]}', "a key stands twice"),
        ("[[1], [2]]", "must be an object"),
        ("{}", "must be an object"),
        ('{"0": 1}', "must be an object"),
        ('{"0": {"0": [1]}}', "must be an object"),
        ('{"0": [1], "2": [1]}', "class '2'; its 2 classes must be 0 to 1"),
        ('{"00": [1]}', "class '00'"),
        ('{"0": [1.5]}', r"filter 1\.5"),
        ('{"0": ["1"]}', "filter '1'"),
        ('{"0": [true]}', "filter True"),
        ('{"0": [null]}', "filter None"),
        ('{"0": [-1]}', "filter -1"),
        ('{"0": [4]}', "whole numbers from 0 to 3"),
        ('{"0": [2, 2]}', "filter 2 more than once"),
        ('{"0": []}', "has no filter"),
        ('{"0": [1], "1": [2]}', "for 2 classes; 1 are needed"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    path = tmp_path / "indices.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(path, classes=1, filters=4)


def test_pickles_directories_and_missing_files_are_refused(tmp_path):
    (tmp_path / "indices.pkl").write_bytes(pickle.dumps({0: [1]}))
    with pytest.raises(UserError, match="Pickled index files are not read"):
        read_table(tmp_path / "indices.pkl")
    with pytest.raises(UserError, match="not JSON"):
        read_table(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_table(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"filters": "4"}',
        '{"filters": true}',
        '{"filters": 0}',
        '{"filters": 4, "top_k": "five"}',
        '{"filters": 4, "rule": ["frequency"]}',
        "{",
    ],
)
def test_damaged_manifests_are_refused(tmp_path, content):
    path = tmp_path / "indices.json"
    write_table(path, FilterTable(ROWS, FACTS))
    manifest_path(path).write_text(content)
    with pytest.raises(UserError, match=r"manifest .*(malformed|not valid JSON)"):
        read_table(path)


def test_a_manifest_of_another_content_is_refused(tmp_path):
    path = tmp_path / "indices.json"
    write_table(path, FilterTable(ROWS, FACTS))
    path.write_text(json.dumps({"0": [1, 3], "1": [0, 2]}))
    with pytest.raises(UserError, match=r"not the one its manifest was written for; remove indices\.manifest\.json"):
        read_table(path)


@pytest.mark.parametrize("name", ["indices.txt", "indices.manifest.json", "indices"])
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"must be named <name>\.json"):
        write_table(tmp_path / name, FilterTable(ROWS, FACTS))
