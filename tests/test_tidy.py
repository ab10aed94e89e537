"""Rules of the house that no linter checks: small files and functions, no dead code, nothing that runs foreign code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_relu"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = [*SOURCES, ROOT / "setup.py", *sorted((ROOT / "benchmarks").rglob("*.py"))]
TEXTS = [
    *PROGRAMS,
    *(path for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml") if (path := ROOT / name).exists()),
    *(
        path
        for folder in ("submission", "cnns", ".ci")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file()
    ),
    *(path for path in sorted(PACKAGE.rglob("*")) if path.suffix in (".yaml", ".html", ".css", ".js")),
]

FILE_LINES, FUNCTION_LINES, DEAD_SHARE = 400, 60, 0.02
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:home|root|work|Users|mnt|media|tmp|var/folders)/\w")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)
each_program = pytest.mark.parametrize("path", PROGRAMS, ids=name_of)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def exported(tree: ast.Module) -> list[str] | None:
    """The value of `__all__`; fails where it is not a plain list of strings, None where there is none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return ast.literal_eval(node.value)
    return None


def export_order(name: str) -> tuple[int, list]:
    """The order of ruff's rule RUF022: constants, classes, the rest; numbers inside names by value."""
    group = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return group, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@each_source
def test_exports_are_static_and_sorted(path):
    names = exported(tree_of(path))
    assert names is not None or path.name in ("_version.py", "__main__.py"), "no __all__"
    assert names == sorted(names or [], key=export_order) or names is None
    assert len(set(names or [])) == len(names or [])


@each_program
def test_every_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, "no docstring"
    assert docstring.split("\n\n")[0].rstrip().endswith((".", ":", "?")), "its first paragraph is no sentence"


@each_program
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < FILE_LINES


@each_program
def test_functions_are_short(path):
    long = {}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node) is not None
            text = node.body[0].end_lineno - node.body[0].lineno + 1 if has_docstring else 0
            lines = node.end_lineno - node.lineno + 1 - text
            if lines > FUNCTION_LINES:
                long[node.name] = lines
    assert not long


@each_program
def test_no_code_of_others_is_run(path):
    """No eval, exec or unpickling; the restricted unpickler of the CIFAR files is a class of its own."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "compile", "__import__") or re.fullmatch(
                r"(pickle|dill|joblib)\.loads?", called
            ):
                found.append(f"line {node.lineno}: {called}")
            if called == "np.load" and any(
                k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
            ):
                found.append(f"line {node.lineno}: np.load(allow_pickle=...)")
            if called.startswith("yaml.") and called not in ("yaml.safe_load", "yaml.safe_dump"):
                found.append(f"line {node.lineno}: {called}")
            if any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords):
                found.append(f"line {node.lineno}: shell=True")
    assert not found


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_nothing_is_unfinished_and_nothing_names_one_machine(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if UNFINISHED.search(line) or MACHINE_PATH.search(line)]
    assert not found


def comments_of(path: Path) -> list[str]:
    """The texts of the comments that have a line of their own."""
    source = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [t.string.lstrip("#: ") for t in tokens if t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()]


def is_code(comment: str) -> bool:
    """Whether a comment has `=` or `(` and parses as a Python statement, which few sentences do."""
    if "=" not in comment and "(" not in comment:
        return False
    for text in (comment, f"{comment} pass", f"{comment}\n    pass"):
        try:
            ast.parse(text)
        except SyntaxError:
            continue
        return True
    return False


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("x = f(y)", True),
        ("if x == 1:", True),
        ("return f(x)", True),
        ("Keras pops, so copy (see f)", False),
        ("why", False),
    ],
)
def test_the_heuristic_tells_code_from_sentences(comment, expected):
    assert is_code(comment) is expected


@pytest.mark.parametrize("folder", ["keras_relu", "benchmarks", "tests"])
def test_no_code_is_commented_out(folder):
    comments = [comment for path in sorted((ROOT / folder).rglob("*.py")) for comment in comments_of(path)]
    dead = [comment for comment in comments if is_code(comment)]
    assert len(dead) <= DEAD_SHARE * len(comments), dead
