"""Sweeps on more than one process: jax.distributed (here or under a cluster's launcher) and Ray."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mfamm_jax.experiments.experiment import ConfigError

# How a process that `start_processes` started learns who it is.
ADDRESS, RANK, SIZE = "MFAMM_COORDINATOR", "MFAMM_PROCESS", "MFAMM_PROCESSES"
# A process that has finished waits for the others: a sweep may take days.
PATIENCE_SECONDS = 7 * 24 * 3600
INTERRUPTED = 130


def start_processes(arguments: list[str], n_processes: int, say: Callable[[str], None]) -> int:
    """Runs the same command in several processes on this machine that find each other; returns the exit code.

    As in every group under jax.distributed, one that dies takes the others with it: finished parts are the checkpoint.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "mfamm_jax.experiments", *arguments]
    with tempfile.TemporaryDirectory(prefix="mfamm-") as folder:
        logs = [Path(folder) / f"{rank}.log" for rank in range(n_processes)]
        processes = []
        for rank in range(n_processes):
            environment = os.environ | {ADDRESS: address, RANK: str(rank), SIZE: str(n_processes)}
            with logs[rank].open("w") as log:
                said = log if rank else None  # the first one speaks for all
                processes.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
        try:
            return _watch(processes, logs, say)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _watch(processes: list[subprocess.Popen], logs: list[Path], say: Callable[[str], None]) -> int:
    """Waits for the first process; ends when another one fails."""
    try:
        while True:
            codes = [process.poll() for process in processes]
            for rank, code in enumerate(codes):
                if rank and code:
                    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                    said = logs[rank].read_text(errors="replace").strip().splitlines()[-5:]
                    say("\n".join([*said, f"process {rank} {how}; the others were stopped"]))
                    say("finished parts are kept: run the same command again to continue")
                    return INTERRUPTED if code < 0 else code
            if codes[0] is not None:
                if codes[0] < 0:
                    say(f"process 0 was ended by {signal.Signals(-codes[0]).name}; the others were stopped")
                    say("finished parts are kept: run the same command again to continue")
                    return INTERRUPTED
                return codes[0]
            time.sleep(0.05)
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()  # quiet also in one that is still starting
        processes[0].wait()
        return INTERRUPTED


class Distributed:
    """One of several processes that run the same program; each computes and writes its share of the parts.

    The process index, their number and the coordinator's address come from `start_processes`, or from the launcher of the cluster that
    jax knows (Slurm, Open MPI, Kubernetes, TPU pods). The run folder must be shared. Process 0 opens it, runs the base stages and reports.
    """

    def __init__(self, **options: Any):
        """`options`: of `jax.distributed.initialize`."""
        import jax

        given = (
            {
                "coordinator_address": os.environ[ADDRESS],
                "num_processes": int(os.environ[SIZE]),
                "process_id": int(os.environ[RANK]),
            }
            if ADDRESS in os.environ
            else {}
        )
        try:
            jax.distributed.initialize(**given, **{"shutdown_timeout_seconds": PATIENCE_SECONDS} | options)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--engine distributed: {error}; on one machine give --workers N, on a cluster start one `mfamm run` a process by its "
                "launcher (srun, mpirun), or give jax the coordinator's address"
            ) from error

    @property
    def rank(self) -> int:
        """0 is the process that opens the folder and reports."""
        import jax

        return jax.process_index()

    def share(self, layout: Any, todo: Sequence[Any]) -> list[Any]:
        """A contiguous share, so that few processes compile the same group. All must come here within half a minute of each other."""
        import jax
        import numpy as np
        from jax.experimental import multihost_utils

        # What is finished is what process 0 saw: a file may appear while another process looks.
        mask = np.zeros(len(layout.parts), np.int32)
        mask[[part.number for part in todo]] = 1
        mask = np.asarray(multihost_utils.broadcast_one_to_all(mask))
        wanted = np.array_split(np.flatnonzero(mask), jax.process_count())[self.rank]
        return [layout.parts[number] for number in wanted]

    def tables(
        self, config: Any, layout: Any, todo: Sequence[Any], ready: Callable, note: Callable[[dict], None]
    ) -> Iterator[tuple[Any, pl.DataFrame]]:
        """On this process' devices."""
        import jax

        from mfamm_jax.experiments.sweep import compute_parts

        yield from compute_parts(layout, todo, jax.random.key(config.settings.seed), ready, note)

    def finish(self) -> None:
        """Waits for all."""
        import jax

        jax.distributed.shutdown()


def help_with_sweep(engine: Distributed, config: Any, folder: Any, say: Callable[[str], None]) -> None:
    """What every process but the first does: its share of the parts."""
    from mfamm_jax.experiments.config import construct
    from mfamm_jax.experiments.runner import ready_for, stamp
    from mfamm_jax.experiments.sweep import lay_out

    if config.sweep.n_rows:
        experiment = construct(config)
        layout = lay_out(config, experiment)
        folder.stamp = stamp(config, layout)
        mine = engine.share(layout, [])
        with tempfile.TemporaryDirectory(prefix="mfamm-") as own:
            base = experiment, experiment.prepare(Path(own), config.settings.seed, say)
            for part, table in engine.tables(config, layout, mine, ready_for(config, base, Path(own)), lambda _: None):
                folder.write_part(part.number, table)
    engine.finish()


class Ray:
    """Workers on a Ray cluster; this process writes what they send. With GPUs, one worker each, pinned by Ray.

    Connects to the cluster that RAY_ADDRESS names; without it a cluster is started on this machine for the run.
    """

    def __init__(self, n_workers: int | None, say: Callable[[str], None]):
        if importlib.util.find_spec("ray") is None:
            raise ConfigError('--engine ray: Ray is not installed: pip install "mfamm-jax[ray]"')
        if (
            "UV_RUN_RECURSION_DEPTH" in os.environ
            and os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0") == "0"
        ):
            say(
                "note: started by `uv run`; Ray would start every worker by it too. Workers use this environment's interpreter instead"
            )
        self.n_workers = n_workers

    def share(self, layout: Any, todo: Sequence[Any]) -> Sequence[Any]:
        """Everything goes to the workers."""
        return todo

    def tables(
        self, config: Any, layout: Any, todo: Sequence[Any], ready: Callable, note: Callable[[dict], None]
    ) -> Iterator[tuple[Any, pl.DataFrame]]:
        """Parts as they come; a worker that dies is started again and its part computed anew."""
        import ray

        if not todo:
            return
        quiet = {"log_to_driver": False, "include_dashboard": False, "logging_level": "ERROR"}
        found = bool(os.environ.get("RAY_ADDRESS"))
        ray.init(**({"address": "auto"} if found else {"num_cpus": self.n_workers}), **(quiet if not found else {}))
        try:
            resources = ray.cluster_resources()
            gpus = int(resources.get("GPU", 0))
            room = gpus or int(resources.get("CPU", 0))
            if not room:
                raise ConfigError("--engine ray: the cluster has neither CPUs nor GPUs to give")
            wanted = min(self.n_workers or room, room, len(todo))
            needs = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": 1}
            worker = ray.remote(max_restarts=3, max_task_retries=3, **needs)(PartWorker)
            workers = [worker.remote(config) for _ in range(wanted)]
            waiting = list(reversed(todo))
            running = {w.compute.remote(waiting.pop().number): w for w in workers}
            while running:
                done, _ = ray.wait(list(running))
                free = running.pop(done[0])
                number, table, notes = ray.get(done[0])
                if waiting:
                    running[free.compute.remote(waiting.pop().number)] = free
                for line in notes:
                    note(line)
                yield layout.parts[number], table
            ray.get([w.close.remote() for w in workers])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise error.cause from None
            raise ConfigError(f"--engine ray: a worker failed: {type(error.cause).__name__}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            text = str(error).strip().splitlines()[0]
            raise ConfigError(f"--engine ray: {text}; finished parts are kept: run the same command again") from error
        finally:
            ray.shutdown()

    def finish(self) -> None:
        """All tables came through `tables`."""


class PartWorker:
    """Lives in a Ray worker: computes parts by number."""

    def __init__(self, config: Any):
        self.folder = tempfile.TemporaryDirectory(prefix="mfamm-")
        try:
            self._prepare(config, Path(self.folder.name))
            self.problem = None
        except ValueError as error:  # told with the first part: an actor that cannot be made tells nothing
            self.problem = error

    def _prepare(self, config: Any, own: Path) -> None:
        import jax

        from mfamm_jax.experiments.config import construct
        from mfamm_jax.experiments.runner import enable_compile_cache, ready_for, set_precision
        from mfamm_jax.experiments.sweep import lay_out

        set_precision(config)
        enable_compile_cache()
        self.key = jax.random.key(config.settings.seed)
        experiment = construct(config)
        self.layout = lay_out(config, experiment)
        base = experiment, experiment.prepare(own, config.settings.seed, lambda _: None)
        self.ready = ready_for(config, base, own)
        self.groups: dict[int, Any] = {}

    def compute(self, number: int) -> tuple[int, pl.DataFrame, list[dict[str, Any]]]:
        """The part's number, its table, and what was compiled for it."""
        from mfamm_jax.experiments.sweep import compute_parts

        if self.problem is not None:
            raise self.problem
        notes: list[dict[str, Any]] = []
        part = self.layout.parts[number]
        for _, table in compute_parts(self.layout, [part], self.key, self.ready, notes.append, self.groups):
            return number, table, notes
        raise AssertionError("compute_parts gives a table for every part")

    def close(self) -> None:
        """Removes what was generated here."""
        self.folder.cleanup()
