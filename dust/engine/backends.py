"""Which of torch's kernels compute. The only place that chooses: determinism, the precision of float32, attention."""

import contextlib
import logging
import os
import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

from dust.config import CfgNode
from dust.utils.errors import ConfigError

logger = logging.getLogger(__name__)

#: The workspaces of cuBLAS with which its sums are the same every time (CUBLAS_WORKSPACE_CONFIG).
WORKSPACES = (":4096:8", ":16:8")

#: What has been set here; what a user's own program has set is left alone.
_in_use: "list[Backends]" = []


@dataclass(frozen=True)
class Backends:
    """What kernels a run uses.

    Attributes:
        deterministic: the same bits every time, or an error that names the operation that cannot.
        float32: auto | ieee | tf32, of products and convolutions on CUDA; auto is tf32, with ``deterministic`` ieee.
        attention: flash | cudnn | auto, on CUDA; see TRAIN.SDPA.
    """

    deterministic: bool = False
    float32: str = "auto"
    attention: str = "flash"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        train = cfg.TRAIN
        return {"deterministic": train.DETERMINISTIC, "float32": train.FLOAT32, "attention": train.SDPA}

    @property
    def tf32(self) -> bool:
        return self.float32 == "tf32" or (self.float32 == "auto" and not self.deterministic)

    def check(self) -> None:
        """Raise ConfigError if the environment asks cuBLAS for something that ``deterministic`` forbids."""
        asked = os.environ.get("CUBLAS_WORKSPACE_CONFIG", WORKSPACES[0])
        if self.deterministic and asked not in WORKSPACES:
            raise ConfigError(
                f"TRAIN.DETERMINISTIC True: with CUBLAS_WORKSPACE_CONFIG={asked} in the environment the sums of cuBLAS "
                f"vary. Unset it, or write {' or '.join(WORKSPACES)}"
            )

    def use(self, device: torch.device) -> None:
        """Choose the kernels of this process. To be called before anything is computed on ``device``."""
        before, _in_use[:] = any(one.deterministic for one in _in_use), [self]
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACES[0])  # read when cuBLAS begins
            deterministic: Any = torch.utils.deterministic
            deterministic.fill_uninitialized_memory = False  # which is slow, and nothing here reads it
        if self.deterministic or before:
            torch.use_deterministic_algorithms(self.deterministic)
            torch.backends.cudnn.deterministic = self.deterministic
        if device.type != "cuda":
            return
        torch.backends.cudnn.benchmark = False  # it would choose by a stopwatch, again for every size of batch
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32
        # its backward pass has no deterministic form, it plans again for every size of batch, and NaN came of it
        torch.backends.cuda.enable_cudnn_sdp(self.attention != "flash" and not self.deterministic)
        logger.info(
            "kernels: float32 as %s, attention by %s, %s", "TF32" if self.tf32 else "IEEE", self.attention,
            "deterministic" if self.deterministic else "not deterministic (TRAIN.DETERMINISTIC)",
        )  # fmt: skip


def without_deterministic_form(error: RuntimeError) -> str:
    """Return the operation that a strictly deterministic run met, as torch names it; "" for another error."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    if found is None and "CUBLAS_WORKSPACE_CONFIG" in str(error):
        return "cuBLAS with this CUBLAS_WORKSPACE_CONFIG (:4096:8 is deterministic)"
    return found[1] if found else ""


class AttentionLog(TorchFunctionMode):
    """Log, while it is entered, which kernel each kind of attention gets, once each.

    ``nn.MultiheadAttention`` is not looked into, nor is a compiled model.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        super().__init__()
        self.wanted = wanted
        self.said: set[str] = set()

    def once(self) -> contextlib.AbstractContextManager[Any]:
        """Return itself, the first time, if it is wanted."""
        wanted, self.wanted = self.wanted, False
        return self if wanted else contextlib.nullcontext()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._note(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *rest: Any, **more: Any) -> None:
        kind = query.device.type
        if torch.is_autocast_enabled(kind):  # which torch applies behind this
            dtype = torch.get_autocast_dtype(kind)
            query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
            if isinstance(attn_mask, Tensor) and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(dtype)
        with torch.no_grad():
            choice = torch._fused_sdp_choice(query, key, value, attn_mask, *rest, **more)
        sizes = f"{query.shape[1]} heads of {query.shape[-1]}, {query.shape[-2]} to {key.shape[-2]} tokens"
        dtype_name, mask = str(query.dtype).removeprefix("torch."), "" if attn_mask is None else ", with a mask"
        text = f"attention of {sizes}, {dtype_name}{mask}: {SDPBackend(choice).name.lower()}"
        if text not in self.said:
            self.said.add(text)
            logger.info("%s", text)
