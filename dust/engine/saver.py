"""How checkpoints get to the disk: whole or in parts, at once or behind the training."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from dust.engine.sharding import whole_tensors
from dust.utils import distributed
from dust.utils.checkpoint import is_sharded, save_checkpoint, save_sharded


class Saver:
    """Writes one checkpoint after the other; all processes call it together.

    Args:
        sharded: numbered checkpoints are folders of which every process writes its part.
        background: a copy on the CPU is written by a thread while training continues. What went wrong is raised by the
            next ``write`` or by ``wait``.
    """

    def __init__(self, *, sharded: bool = False, background: bool = False) -> None:
        self.suffix = ".dcp" if sharded else ".pyth"
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if background else None
        self.pending: Future[None] | None = None
        self.group: Any = None
        self.mesh: Any = None
        if sharded and background and distributed.world_size() > 1:
            self.group = dist.new_group(backend="gloo")  # training's own messages must not mix with the thread's
            self.mesh = init_device_mesh("cpu", (distributed.world_size(),))

    def write(self, path: Path, tree: Mapping[str, Any], then: Callable[[], None] = lambda: None) -> None:
        """Write ``tree``, to a folder or a file as ``path`` is called; once that is safe, the main process does
        ``then``.

        Raises:
            CheckpointError: this one, or in the background the one before, could not be written.
        """
        self.wait()
        if not is_sharded(path):
            tree = whole_tensors(tree, keep=distributed.is_main())
            if not distributed.is_main():
                return
        if self.pool is None:
            self._write(path, tree, then)
        else:
            self.pending = self.pool.submit(self._write, path, self._copied(tree), then)

    def wait(self) -> None:
        """Return once everything is on the disk."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def _write(self, path: Path, tree: Mapping[str, Any], then: Callable[[], None]) -> None:
        if is_sharded(path):
            save_sharded(path, tree, self.group)
        else:
            save_checkpoint(path, tree)
        if distributed.is_main():
            then()

    def _copied(self, tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {key: self._copied(value) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(self._copied(value) for value in tree)
        if isinstance(tree, DTensor):
            local = tree.to_local().detach().to("cpu", copy=True)
            shape, stride = tree.shape, tree.stride()
            return DTensor.from_local(local, self.mesh, tree.placements, run_check=False, shape=shape, stride=stride)
        return tree.detach().to("cpu", copy=True) if isinstance(tree, torch.Tensor) else tree
