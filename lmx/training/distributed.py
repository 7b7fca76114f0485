"""DDP whose child processes start from the run folder of this one job.

Lightning's own launcher repeats the command line: in a sweep every child would run the whole sweep again, and
would compose a configuration of its own. Here rank 0 has made the run folder; the others open it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from lmx.config import LmxError, RankError
from lmx.runs import RunFolder

GRACE_SECONDS = 5.0
RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LaunchedDDP(DDPStrategy):
    """DDPStrategy with the launcher below; under torchrun or SLURM the processes are there already."""

    def __init__(self, folder: RunFolder, backend: str) -> None:
        """`backend`: gloo on the CPU, nccl on GPUs."""
        super().__init__(process_group_backend=backend, gradient_as_bucket_view=True)
        self._folder = folder

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if not self.cluster_environment.creates_processes_externally:
            self._launcher = _Launcher(
                self._folder, self.cluster_environment, self.num_processes, self.num_nodes
            )


class _Launcher(_SubprocessScriptLauncher):
    def __init__(self, folder: RunFolder, *args: Any) -> None:
        super().__init__(*args)
        self._folder = folder

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Run `function` on every rank, and leave nothing behind in the environment of the next job."""
        root = "LOCAL_RANK" not in os.environ
        try:
            return super().launch(function, *args, trainer=trainer, **kwargs)
        except LmxError:
            raise
        except Exception as error:
            ended = self._ended_early(GRACE_SECONDS if isinstance(error, RuntimeError) else 0)
            if ended is None:
                raise
            raise RankError(f"{ended}; go on with python -m lmx.train resume={self._folder.path}") from error
        finally:
            if root:
                self._leave()

    def _ended_early(self, patience: float) -> str | None:
        """Say which other rank ended by itself, for whatever this one met then is not the cause.

        Its connection, whose loss torch raises as a RuntimeError, closes up to `patience` seconds before.
        """
        limit = time.monotonic() + patience
        while True:
            for rank, process in enumerate(self.procs or (), start=1):
                status = process.poll()
                if status is not None and status < 0:
                    return f"rank {rank} was ended by {signal.Signals(-status).name}"
                if status:
                    return f"rank {rank} ended with exit status {status}, for the reason above"
            if time.monotonic() >= limit:
                return None
            time.sleep(0.05)

    def _leave(self) -> None:
        import torch.distributed as dist

        processes = list(self.procs)
        self.procs.clear()  # Lightning's observer watches this list and kills us for a rank that has ended
        if dist.is_initialized():
            dist.destroy_process_group()
        for process in processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in RANK_VARIABLES:
            os.environ.pop(name, None)

    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        environment = self.cluster_environment
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "LOCAL_RANK": str(environment.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        self.procs = []
        for rank in range(1, self.num_processes):
            given = str(self._folder.path), str(os.getpid())
            command = [sys.executable, "-m", "lmx.training.rank", *given]
            self.procs.append(subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank)}))
