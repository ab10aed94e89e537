"""The secure engine in an environment of its own: found, started on a job, bounded in time and memory, always ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu.errors import KerasReLUError, UserError, unknown_key
from keras_relu.files import read_json, write_json, write_text

__all__ = ["PROTOCOLS", "EngineInput", "EngineProgram", "EngineRun", "Job", "find_engine", "run_job"]

PROTOCOLS = {
    "semi2k": "two parties, secret sharing over a 64-bit ring; correlated randomness from a dealer that party 0 plays, so "
    "this is the cost of the online phase",
    "cheetah": "two parties, no dealer: oblivious transfer for comparisons, homomorphic encryption for products",
    "aby3": "three parties of whom at most one may be curious, replicated secret sharing",
}
ENVIRONMENT = ".venv-mpc"
VARIABLE = "KERAS_RELU_MPC_PYTHON"
_PROGRAM = Path(__file__).with_name("engine_program.py")
# What the engine's start and end may take beyond the limit of the job itself.
_GRACE_S = 30.0


@dataclass(frozen=True)
class EngineInput:
    """One input of a program: `array`, `visibility` ("secret" or "public") and the party that owns it (None = shared)."""

    array: np.ndarray
    visibility: str = "secret"
    owner: int | None = None


@dataclass(frozen=True)
class EngineProgram:
    """StableHLO `text` with its `inputs`; the first input [N, ...] is run through row by row, after `warmup` runs."""

    name: str
    text: str
    inputs: Sequence[EngineInput]
    warmup: int = 0


@dataclass(frozen=True)
class Job:
    """Programs for one engine session.

    Attributes:
        protocol: key of PROTOCOLS.
        programs: run one after the other between the same processes.
        field, fraction_bits: ring (FM32, FM64 or FM128) and bits after the point of fixed-point numbers.
        owned_weights: inputs stay with their owner, who computes on them in the clear where the protocol can.
        timeout_s: seconds for everything.
        memory_bytes: of each party; None = no limit.
    """

    protocol: str
    programs: Sequence[EngineProgram] = field(repr=False)
    field: str = "FM64"
    fraction_bits: int = 18
    owned_weights: bool = False
    timeout_s: float = 600.0
    memory_bytes: int | None = 16 << 30


@dataclass(frozen=True)
class EngineRun:
    """What one program gave: `outputs` [N, ...]; `runs`, the counters of each run after the warm-up, per party."""

    outputs: np.ndarray = field(repr=False)
    runs: list[list[dict[str, Any]]] = field(repr=False)
    warmup_runs: list[list[dict[str, Any]]] = field(repr=False)


def find_engine(path: str | os.PathLike | None = None) -> Path:
    """The Python that has the engine: `path`, $KERAS_RELU_MPC_PYTHON, `.venv-mpc` here or beside the package, or this one.

    Raises:
        UserError: it is nowhere, or what was named is no Python with the engine in it.
    """
    named = path or os.environ.get(VARIABLE)
    if named:
        return _checked(Path(named))
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        python = folder / ENVIRONMENT / "bin" / "python"
        if python.exists():
            return _checked(python)
    if importlib.util.find_spec("spu"):
        return Path(sys.executable)
    raise UserError(
        f"The secure engine is not installed. `make mpc` builds it into {ENVIRONMENT}; or name a Python that has the "
        f"package spu by --engine or ${VARIABLE}."
    )


def _checked(named: Path) -> Path:
    python = named / "bin" / "python" if named.is_dir() else named
    if not python.exists():
        raise UserError(f"The engine {str(named)!r} does not exist; expected a Python or its environment.")
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('spu') is None)"
    try:
        found = subprocess.run([python, "-c", probe], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        found = False
    if not found:
        raise UserError(f"The engine {str(named)!r} is no Python with the package spu in it; `make mpc` builds one.")
    return python


def run_job(job: Job, *, engine: str | os.PathLike | None = None) -> dict[str, EngineRun]:
    """Run `job` and return what each program gave, by name.

    Raises:
        UserError: an unknown protocol; no engine, see `find_engine`.
        KerasReLUError: the engine failed, or a limit was reached.
    """
    if job.protocol not in PROTOCOLS:
        raise unknown_key("protocol", job.protocol, PROTOCOLS)
    python = find_engine(engine)
    with tempfile.TemporaryDirectory(prefix="keras-relu-mpc-") as scratch:
        folder = Path(scratch)
        _write(job, folder)
        _execute(python, folder, job.timeout_s)
        entries = read_json(folder / "result.json", "result of the engine")["programs"]
        return {entry["name"]: _read(folder, entry) for entry in entries}


def _write(job: Job, folder: Path) -> None:
    programs = []
    for program in job.programs:
        write_text(folder / f"{program.name}.mlir", program.text)
        inputs = []
        for index, given in enumerate(program.inputs):
            file = f"{program.name}.{index}.npy"
            np.save(folder / file, np.asarray(given.array))
            inputs.append({"file": file, "visibility": given.visibility, "owner": given.owner})
        entry = {"name": program.name, "stablehlo": f"{program.name}.mlir", "inputs": inputs, "warmup": program.warmup}
        programs.append(entry)
    limits = {"timeout_s": job.timeout_s, "memory_bytes": job.memory_bytes}
    kind = {"protocol": job.protocol.upper(), "field": job.field, "fraction_bits": job.fraction_bits}
    write_json(folder / "job.json", {**kind, **limits, "owned_weights": job.owned_weights, "programs": programs})


def _execute(python: Path, folder: Path, timeout_s: float) -> None:
    # A session of its own, so that whatever happens all of its processes can be ended by one signal.
    process = subprocess.Popen(
        [python, "-I", _PROGRAM, folder, str(os.getpid())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, messages = process.communicate(timeout=timeout_s + _GRACE_S)
    except subprocess.TimeoutExpired:
        raise KerasReLUError(
            f"The secure engine did not finish within {timeout_s:g} s; all its processes were ended."
        ) from None
    finally:
        _end(process)
    if process.returncode:
        last = [line for line in messages.strip().splitlines() if line][-1:] or [f"exit code {process.returncode}"]
        raise KerasReLUError(f"The secure engine failed: {last[0].removeprefix('engine: ')[:300]}.")


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(folder: Path, entry: dict[str, Any]) -> EngineRun:
    runs = [run["parties"] for run in entry["runs"]]
    outputs = np.load(folder / f"{entry['name']}.out.npy", allow_pickle=False)
    return EngineRun(outputs, runs[entry["warmup"] :], runs[: entry["warmup"]])
