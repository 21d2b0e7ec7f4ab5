"""FSDP2: parameters, gradients and optimizer state shared out over all processes, each block gathered while it runs.

A sharded model keeps its class and its names. What is loaded into it or its optimizer may be whole tensors:
each process takes its part (hooks of ``load_state_dict``). What is saved is made whole again by :func:`whole_tensors`.

Source: PyTorch's fully_shard (FSDP2), one unit per transformer block and one for the rest.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dust.utils import distributed
from dust.utils.errors import CheckpointError, ConfigError

#: Options of an optimizer that say how it computes, not what.
IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the units that are gathered one at a time: members of lists of alike, composed modules, the innermost
    such."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    blocks = [member for siblings in lists for member in siblings if _is_block(member, siblings)]
    known = set(map(id, blocks))
    return [block for block in blocks if not any(id(part) in known for part in block.modules() if part is not block)]


def _is_block(member: nn.Module, siblings: Any) -> bool:
    alike = sum(type(other) is type(member) for other in siblings) > 1
    return alike and any(member.children()) and next(member.parameters(), None) is not None


def shard(model: nn.Module, device: torch.device, param_dtype: torch.dtype | None) -> None:
    """Share the parameters of ``model`` out over all processes, in place. Forward passes then are of all together.

    Args:
        param_dtype: what blocks compute in (bfloat16 under mixed precision); gradients are summed in float32. None: as
            the parameters are. What stands outside of blocks stays as it is: of embeddings in bfloat16 the whole
            residual stream would be made.

    Raises:
        ConfigError: a parameter has no dimension along which it could be cut.
    """
    for name, parameter in model.named_parameters():
        if not parameter.ndim:
            raise ConfigError(
                f"TRAIN.PARALLEL fsdp: {type(model).__name__}.{name} is a scalar, which cannot be shared out. Give it "
                "one dimension, nn.Parameter(torch.tensor([1.0])), or write TRAIN.PARALLEL ddp."
            )
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=param_dtype,
        reduce_dtype=torch.float32 if param_dtype else None,
        output_dtype=torch.float32 if param_dtype else None,
        cast_forward_inputs=False,  # autocast does, and leaves the residual stream in float32 as DDP has it
    )
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=replace(policy, param_dtype=None))
    for module in model.modules():
        if any(isinstance(parameter, DTensor) for parameter in module.parameters(recurse=False)):
            module.register_load_state_dict_pre_hook(_take_part_of_weights)


def _take_part_of_weights(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        key = prefix + name
        if key in state and isinstance(parameter, DTensor):
            state[key] = part_of(state[key], parameter)


#: What tells Adam from AdamW, whose groups and states have the same names.
_DECAY = "decoupled_weight_decay"
#: States of torch's optimizers that have the shape of their parameter.
_LIKE_PARAMETER = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], source: str) -> None:
    """Do ``optimizer.load_state_dict(state)`` where parameters may be shared out and ``state`` whole, and come from
    another device: how a step is computed (fused) stays as this optimizer was built.

    Raises CheckpointError, which names the ``source``, for the state of another optimizer."""
    try:
        _load_optimizer(optimizer, state)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{source}: its optimizer does not fit ({reason})") from error


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {
        index: {name: part_of(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
        if index < len(parameters)  # else it does not fit, as load_state_dict will say
    }
    # what is dust's own of a group (lr_scale) another program's file does not have
    groups = [
        {**{name: own[name] for name in own.keys() - optimizer.defaults.keys() - {"params"}}, **saved,
         **{name: own[name] for name in IMPLEMENTATION if name in own}}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]  # fmt: skip
    groups += state["param_groups"][len(groups) :]  # too many, as load_state_dict will say
    before = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict({**state, "state": parts, "param_groups": groups})
    for own, saved, loaded in zip(before, groups, optimizer.param_groups, strict=True):
        # what is newer than the file the optimizer adds itself
        if not own.keys() <= loaded.keys() or saved.get(_DECAY, own.get(_DECAY)) != own.get(_DECAY):
            raise ValueError("it is the state of another method")
    for parameter, values in optimizer.state.items():
        for name in _LIKE_PARAMETER & values.keys():
            if isinstance(values[name], Tensor) and values[name].shape != parameter.shape:
                raise ValueError(f"{name} is of shape {tuple(values[name].shape)}, not {tuple(parameter.shape)}")


def part_of(value: Any, like: Tensor) -> Any:
    """Return this process's part of a whole tensor that has the shape of ``like``, laid out as that; else ``value``."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if value.shape != like.shape:
        return value
    whole = value.to(like.device, like.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def whole_tensors(tree: Any, keep: bool = True) -> Any:
    """Return ``tree`` with every shared tensor whole, on the CPU; all processes must ask together. One that does not
    ``keep`` them only takes part, a tensor at a time, and gets None in their places."""
    if isinstance(tree, dict):
        return {key: whole_tensors(value, keep) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tensors(value, keep) for value in tree)
    if not isinstance(tree, DTensor):
        return tree
    whole = tree.full_tensor()
    return whole.cpu() if keep else None


def layout_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[tuple[Any, ...], torch.Size], Any]:
    """Return ``layout(path, shape)``: the tensor like which the one at ``path`` of a checkpoint is to be shared, or
    None."""
    weights = {name: value for name, value in model.named_parameters() if isinstance(value, DTensor)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def layout(path: tuple[Any, ...], shape: torch.Size) -> DTensor | None:
        like: Any = None
        if path[0] in ("model_state", "ema_state"):
            like = weights.get(path[1])
        elif path[:2] == ("optimizer_state", "state") and path[2] < len(parameters):
            like = parameters[path[2]]
        return like if isinstance(like, DTensor) and like.shape == shape else None

    return layout


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Let every process hold all weights while this lasts, so that each may run the model as often as it likes."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not model, recurse=False)
