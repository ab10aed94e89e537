"""Runs programs on the secure engine between real processes; executed by the engine's own Python, never imported.

    python engine_program.py JOB_DIRECTORY PARENT_PROCESS

It needs NumPy and SPU only. The directory holds `job.json` (see `cost.engine.Job`), StableHLO texts and `.npy` inputs; it gets
`result.json` (the engine's counters per party, run and operation), one `.npy` with the outputs of each program, and the
parties' logs. One process per party talks to the others over loopback TCP; all of them end with this process.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]

_PARTIES = {"SEMI2K": 2, "CHEETAH": 2, "ABY3": 3}
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_RUN = re.compile(r"SPU execution (\S+) completed.* total time ([\d.e+-]+)s")
_OPERATION = re.compile(
    r"- (pphlo\.\S+), executed (\d+) times, duration ([\d.e+-]+)s, "
    r"send bytes (\d+) recv bytes (\d+), send actions (\d+), recv actions (\d+)"
)
_LINK = re.compile(r"Link details: total send bytes (\d+), recv bytes (\d+), send actions (\d+), recv actions (\d+)")


class _EngineError(Exception):
    """What stopped the job, in one sentence."""


def main(folder: Path) -> None:
    """Run the job in `folder`; see the module."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    deadline = time.monotonic() + job["timeout_s"]
    parties = _Parties(folder, job, deadline)
    try:
        programs = [_run_program(folder, job, program, parties) for program in job["programs"]]
    finally:
        parties.end()
    logs = [_runs_of(folder / f"party{rank}.log") for rank in range(parties.count)]
    for program in programs:
        program["runs"] = [
            {"parties": [runs[f"{program['name']}#{index}"] for runs in logs]} for index in range(program.pop("count"))
        ]
    (folder / "result.json").write_text(json.dumps({"programs": programs, "setup_s": parties.setup_s}))


def _config(job: dict[str, Any]) -> Any:
    from spu import libspu

    config = libspu.RuntimeConfig(
        protocol=getattr(libspu.ProtocolKind, job["protocol"]),
        field=getattr(libspu.FieldType, job["field"]),
        fxp_fraction_bits=job["fraction_bits"],
    )
    config.enable_pphlo_profile = True
    config.experimental_enable_colocated_optimization = job["owned_weights"]
    return config


def _run_program(folder: Path, job: dict[str, Any], program: dict[str, Any], parties: _Parties) -> dict[str, Any]:
    """Compile, share the inputs, run every batch, reconstruct: writes `<name>.out.npy`."""
    import spu
    from spu import libspu

    text = (folder / program["stablehlo"]).read_bytes()
    kinds = [getattr(libspu.Visibility, f"VIS_{entry['visibility'].upper()}") for entry in program["inputs"]]
    source = libspu.CompilationSource(libspu.SourceIRType.STABLEHLO, text, kinds)
    code = spu.compile(source, libspu.CompilerOptions())
    sharer = spu.Io(parties.count, _config(job))

    def shares(array: np.ndarray, entry: dict[str, Any], kind: Any) -> list[Any]:
        owner = [entry["owner"]] if job["owned_weights"] and entry["owner"] is not None else []
        return sharer.make_shares(np.ascontiguousarray(array), kind, *owner)

    arrays = [np.load(folder / entry["file"], allow_pickle=False) for entry in program["inputs"]]
    names = [f"in{index}" for index in range(len(arrays))]
    for name, array, entry, kind in list(zip(names, arrays, program["inputs"], kinds))[1:]:
        parties.send([("set", name, share) for share in shares(array, entry, kind)])
    parties.send([("program", code, names)] * parties.count)
    batches = [arrays[0][index % len(arrays[0])] for index in range(-program["warmup"], len(arrays[0]))]
    outputs = []
    for index, batch in enumerate(batches):
        parties.send([("set", "in0", share) for share in shares(batch, program["inputs"][0], kinds[0])])
        outputs.append(sharer.reconstruct(parties.ask([("run", f"{program['name']}#{index}")] * parties.count)))
    np.save(folder / f"{program['name']}.out.npy", np.stack(outputs[program["warmup"] :]))
    return {"name": program["name"], "warmup": program["warmup"], "count": len(batches)}


class _Parties:
    """The parties' processes and a pipe to each."""

    def __init__(self, folder: Path, job: dict[str, Any], deadline: float) -> None:
        self.count, self.deadline = _PARTIES[job["protocol"]], deadline
        context = multiprocessing.get_context("spawn")
        ports = _free_ports(self.count)
        self.pipes, self.processes = [], []
        started = time.monotonic()
        for rank in range(self.count):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_party, args=(folder, job, rank, ports, theirs, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(pipe)
            self.processes.append(process)
        self._answers()
        self.setup_s = time.monotonic() - started

    def send(self, messages: list[Any]) -> None:
        """One message to each party, which answers."""
        self.ask(messages)

    def ask(self, messages: list[Any]) -> list[Any]:
        """One message to each party, and the answers."""
        for pipe, message in zip(self.pipes, messages):
            pipe.send(message)
        return self._answers()

    def _answers(self) -> list[Any]:
        answers = []
        for rank, pipe in enumerate(self.pipes):
            while True:
                # Asked before every wait: many short answers must not add up to more than the limit.
                if time.monotonic() > self.deadline:
                    raise _EngineError("the time limit was reached")
                if pipe.poll(0.2):
                    break
                if self.processes[rank].exitcode is not None:
                    raise _EngineError(f"party {rank} ended with exit code {self.processes[rank].exitcode}")
            try:
                status, value = pipe.recv()
            except EOFError:
                raise _EngineError(f"party {rank} ended while it was working") from None
            if status != "ok":
                raise _EngineError(f"party {rank}: {value}")
            answers.append(value)
        return answers

    def end(self) -> None:
        """Let the parties go, and kill those that do not."""
        for pipe in self.pipes:
            try:
                pipe.send(("end",))
            except OSError:
                continue
        for process in self.processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


def _party(folder: Path, job: dict[str, Any], rank: int, ports: list[int], pipe: Any, parent: int) -> None:
    """The life of one party: link up, then follow the messages."""
    _end_with_parent(parent)
    if job["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_DATA, (job["memory_bytes"], job["memory_bytes"]))
    output = os.open(folder / f"party{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        _follow(pipe, *_linked(folder, job, rank, ports))
    except EOFError:
        return
    except BaseException as error:
        pipe.send(("error", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))
        raise


def _end_with_parent(parent: int) -> None:
    """The kernel ends this process with its parent `parent`; also when that happened before the request."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _linked(folder: Path, job: dict[str, Any], rank: int, ports: list[int]) -> tuple[Any, Any]:
    import spu
    from spu import libspu

    options = libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.system_log_path = str(folder / f"party{rank}.log")
    libspu.logging.setup_logging(options)
    description = libspu.link.Desc()
    for index, port in enumerate(ports):
        description.add_party(f"p{index}", f"127.0.0.1:{port}")
    description.recv_timeout_ms = description.http_timeout_ms = int(1000 * job["timeout_s"])
    link = libspu.link.create_brpc(description, rank)
    return link, spu.Runtime(link, _config(job))


def _follow(pipe: Any, link: Any, runtime: Any) -> None:
    from spu import libspu

    pipe.send(("ok", None))
    code: Any = None
    names: list[str] = []
    while (message := pipe.recv())[0] != "end":
        value = None
        if message[0] == "set":
            runtime.set_var(message[1], message[2])
        elif message[0] == "program":
            code, names = message[1:]
        else:
            program = libspu.Executable(name=message[1], input_names=names, output_names=["out"], code=code)
            link.barrier()
            runtime.run(program)
            value = runtime.get_var("out")
        pipe.send(("ok", value))


def _runs_of(log: Path) -> dict[str, dict[str, Any]]:
    """Run name -> seconds, counters of the link, and counters per operation, as one party saw them."""
    runs: dict[str, dict[str, Any]] = {}
    run: dict[str, Any] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if found := _RUN.search(line):
            run = runs[found[1]] = {"seconds": float(found[2]), "operations": {}}
        elif found := _OPERATION.search(line):
            run["operations"][found[1]] = {
                "count": int(found[2]),
                "seconds": float(found[3]),
                "send_bytes": int(found[4]),
                "send_actions": int(found[6]),
            }
        elif found := _LINK.search(line):
            run.update(send_bytes=int(found[1]), send_actions=int(found[3]))
    return runs


if __name__ == "__main__":
    _end_with_parent(int(sys.argv[2]))
    try:
        main(Path(sys.argv[1]))
    except _EngineError as problem:
        print(f"engine: {problem}", file=sys.stderr)
        sys.exit(3)
