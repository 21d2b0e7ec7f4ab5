"""TSTL, two-stage learning on CAST: a selector says which group of classes a clip is of, experts say which class.

Written from the published description and numbers, not from the authors' code (https://github.com/saddy-paddy/TSTL,
CC-BY-NC 4.0). Selector and experts are CAST models (dust/models/cast.py) whose two frozen experts, the trunk, are the
same tensors: G experts cost one trunk and G + 1 times what is trained.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from dust.config.expand import grouping_of
from dust.models.build import MODEL_REGISTRY
from dust.models.cast import CAST
from dust.models.cast_weights import is_trained
from dust.models.layers.checks import check_arguments
from dust.utils.errors import ArgumentError, DustError
from dust.utils.tstl_grouping import find_grouping_problems

#: Clips times experts that run together: each takes its expert's trained weights along, 180 MB of ViT-B's in float32.
PAIRS_AT_ONCE = 16
VOTES = ("maxlogit", "selector_weighted", "majority")


@MODEL_REGISTRY.register()
class TSTL(nn.Module):
    """Video (B, C, T, H, W) -> {"logits": (B, num_classes), "selector": (B, G), ...}; see ``forward``.

    Args:
        groups: the classes of each of the G groups, in the order of its expert's logits; every class once.
        expert_classes: ``group``: an expert's head has its group's classes; ``all``: every class, as published.
        top_k: how many experts see a clip, those of the groups with the selector's highest scores.
        vote: how they agree: ``maxlogit`` | ``selector_weighted`` | ``majority``, see
            :func:`dust.models.tstl.vote`.
        mask_outside: an expert says nothing of classes outside its group; with ``expert_classes`` "group" it cannot.
        init_from: ``{part: (configuration key, stage or file)}`` of "selector", "experts.0", ... and of the trunk, as
            CAST's.
        cast: the arguments of CAST, ``num_classes`` being that of all classes together.

    Raises ConfigError that names every argument that cannot be.
    """

    #: Selector, experts and trunk are all there is: nothing is left to train, so it is tested without a checkpoint.
    assembled_from_parts = True

    def __init__(
        self,
        *,
        groups: Sequence[Sequence[int]],
        expert_classes: str = "group",
        top_k: int = 1,
        vote: str = "maxlogit",
        mask_outside: bool = False,
        init_from: Mapping[str, tuple[str, str]] | None = None,
        **cast: Any,
    ) -> None:
        super().__init__()
        self.num_classes = cast.pop("num_classes", None) or sum(map(len, groups))
        problems = find_grouping_problems(groups, num_classes=self.num_classes)
        if not 1 <= top_k <= len(groups):
            problems.append(f"top_k is {top_k}, it must be from 1 to {len(groups)}, the number of groups")
        if cast.get("composition"):
            problems.append("composition is True, and TSTL routes one set of classes")
        choices = {"vote": (vote, VOTES), "expert_classes": (expert_classes, ("group", "all"))}
        check_arguments("TSTL", above_zero={}, choices=choices, more=problems)
        self.expert_classes, self.top_k, self.vote, self.mask_outside = expert_classes, top_k, vote, mask_outside
        self.init_from = dict(init_from or {})
        self.selector = CAST(num_classes=len(groups), **cast)
        self.num_features = self.selector.num_features
        # copies of the selector in which what is frozen, and fixed tables, stay the selector's own
        shared: dict[int, Any] = {id(one): one for one in _shared(self.selector)}
        self.experts = nn.ModuleList()
        for classes in groups:
            expert = copy.deepcopy(self.selector, dict(shared))
            expert.reset_classifier(len(classes) if expert_classes == "group" else self.num_classes)
            self.experts.append(_in_one_piece(expert))
        member = torch.zeros(len(groups), self.num_classes, dtype=torch.bool)
        for index, classes in enumerate(groups):
            self.register_buffer(f"classes_{index}", torch.tensor(classes), persistent=False)
            member[index, list(classes)] = True
        self.register_buffer("member", member, persistent=False)

    member: torch.Tensor
    silent_outputs = frozenset({"logits", "oracle"})

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for; the engine fills the parts."""
        tstl = cfg.TSTL
        grouping = grouping_of(cfg)
        cast = CAST.from_config(cfg)
        parts = {**cast.pop("init_from"), "selector": ("TSTL.SELECTOR_FROM", tstl.SELECTOR_FROM)}
        by_file = "{group}" in tstl.EXPERTS_FROM
        for index in range(grouping.num_groups):
            stage = str(Path(tstl.EXPERTS_FROM, "experts", f"group_{index}"))
            name = tstl.EXPERTS_FROM.replace("{group}", str(index)) if by_file else stage
            parts[f"experts.{index}"] = ("TSTL.EXPERTS_FROM", name)
        return {
            **cast,
            "groups": grouping.groups,
            "expert_classes": tstl.EXPERT_CLASSES,
            "top_k": tstl.TOP_K,
            "vote": tstl.VOTE,
            "mask_outside": tstl.MASK_OUTSIDE,
            "init_from": parts,
        }

    def forward(self, video: torch.Tensor, group: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Answer for (B, C, T, H, W) float, and where it is known the group (B,) that each clip belongs to, -1
        elsewhere.

        Returns ``logits`` (B, num_classes), the vote of the experts that the selector chose; ``selector`` (B, G), its
        logits; ``routes`` (B, top_k), the groups chosen, the likeliest first; ``forwards`` (B,), how many CAST models
        saw each clip on the way to ``logits``. With ``group`` also ``oracle`` (B, num_classes), what the expert of the
        clip's own group says (-inf where it is -1); it has no part in the vote.

        Clips of one expert run through it together, in one batch; in evaluation on CUDA, the clips of all experts
        together (:func:`as_one_batch`).
        """
        if group is not None and (
            group.shape != video.shape[:1] or (len(group) and int(group.max()) >= len(self.experts))
        ):
            raise DustError(
                f"TSTL got groups of shape {tuple(group.shape)}, the largest {int(group.max())}; they must be "
                f"({len(video)},), numbers below {len(self.experts)}"
            )
        scores = self.selector(video)  # (B, G)
        scores = scores["logits"] if isinstance(scores, dict) else scores
        routes = scores.topk(self.top_k, dim=1).indices
        at_once = as_one_batch(video) and len(video) and not self.training
        ask = self._ask_all_at_once if at_once else self._ask_one_by_one
        said, oracle = ask(video, routes, group, scores)
        outputs = {
            "logits": vote(said, scores.gather(1, routes), scores.logsumexp(dim=1), self.vote),
            "selector": scores,
            "routes": routes,
            "forwards": torch.full((len(video),), 1.0 + self.top_k, device=video.device),
        }
        return outputs if oracle is None else {**outputs, "oracle": oracle}

    def _ask_one_by_one(
        self, video: torch.Tensor, routes: torch.Tensor, group: torch.Tensor | None, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the experts of ``routes`` (B, k) say, (B, k, num_classes), and those of ``group`` (B,) say, (B,
        num_classes), in the type of ``like``."""
        said = like.new_full((len(video), self.top_k, self.num_classes), float("-inf"))
        oracle = None if group is None else like.new_full((len(video), self.num_classes), float("-inf"))
        for index in range(len(self.experts)):
            sent = routes == index  # (B, top_k)
            wanted = sent.any(dim=1) if group is None else sent.any(dim=1) | (group == index)
            clips = wanted.nonzero().squeeze(1)
            if not len(clips):
                continue
            answers = self.expert_logits(index, video if len(clips) == len(video) else video[clips]).to(said)
            row, place = sent[clips].nonzero(as_tuple=True)
            said = said.index_put((clips[row], place), answers[row])
            if oracle is not None and group is not None:
                own = group[clips] == index
                oracle = oracle.index_put((clips[own],), answers[own])
        return said, oracle

    def _ask_all_at_once(
        self, video: torch.Tensor, routes: torch.Tensor, group: torch.Tensor | None, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ask as :meth:`_ask_one_by_one` does, which waits for the device twice for each expert; this waits once."""
        asked = routes if group is None else torch.cat([routes, group.to(routes)[:, None]], dim=1)
        numbers: dict[tuple[int, int], int] = {}  # (clip, expert): which answer
        places = [
            [numbers.setdefault((clip, expert), len(numbers)) if expert >= 0 else -1 for expert in experts]
            for clip, experts in enumerate(asked.tolist())
        ]
        answers = self._answers([*numbers], video).to(like)
        answers = torch.cat([answers, answers.new_full((1, self.num_classes), float("-inf"))])  # number -1
        found = answers[torch.tensor(places, device=answers.device)]
        return found[:, : self.top_k], None if group is None else found[:, self.top_k]

    def _answers(self, pairs: Sequence[tuple[int, int]], video: torch.Tensor) -> torch.Tensor:
        """Return what each (clip, expert) says, (pairs, num_classes): one pass over the frozen trunk, in which what is
        trained of the experts is a product of batches of matrices."""
        told, experts = [], [*self._experts()]
        trained = [{name: p for name, p in expert.named_parameters() if is_trained(name)} for expert in experts]
        names = [name for name in trained[0] if not name.startswith("head.")]  # heads may have other sizes
        body = _Body(experts[0])
        for begin in range(0, len(pairs), PAIRS_AT_ONCE):
            part = pairs[begin : begin + PAIRS_AT_ONCE]
            weights = {f"cast.{name}": torch.stack([trained[expert][name] for _, expert in part]) for name in names}
            clips = video[torch.tensor([clip for clip, _ in part], device=video.device)]
            features = torch.func.vmap(lambda own, clip: torch.func.functional_call(body, own, (clip[None],))[0])(
                weights, clips
            )
            for row, (_, expert) in enumerate(part):
                told.append(self._placed(expert, experts[expert].head(features[row : row + 1])))
        return torch.cat(told)

    def expert_logits(self, index: int, video: torch.Tensor) -> torch.Tensor:
        """Return what expert ``index`` says of clips (b, C, T, H, W): (b, num_classes), -inf where it says nothing."""
        logits = self.experts[index](video)
        return self._placed(index, logits["logits"] if isinstance(logits, dict) else logits)

    def _placed(self, index: int, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of expert ``index`` at their classes' places."""
        if self.expert_classes == "group":
            outside = logits.new_full((len(logits), self.num_classes), float("-inf"))
            return outside.index_copy(1, self.get_buffer(f"classes_{index}"), logits)
        return logits.masked_fill(~self.member[index], float("-inf")) if self.mask_outside else logits

    def _experts(self) -> Iterator[CAST]:
        for expert in self.experts:
            assert isinstance(expert, CAST)
            yield expert

    # ---------------------------------------------------------------------------------- what the engine asks of it

    def load_parts(self, paths: Mapping[str, Path]) -> None:
        """Fill trunk, selector and experts from the files that ``init_from`` stands for.

        Raises CheckpointError that names every part that does not fit, or was trained on another trunk.
        """
        from dust.models.tstl_weights import load_parts

        load_parts(self, paths)

    def gflops(self) -> float:
        """Return 10^9 multiplications and additions of one CAST on one clip; ``forwards`` times that is what a clip
        costs."""
        from dust.utils.flops import flop_counter  # torch's part takes a while to import

        tensors = [*self.selector.parameters(), *self.selector.buffers()]
        meta = {id(tensor): torch.empty_like(tensor, device="meta", requires_grad=False) for tensor in tensors}
        meta |= {id(p): nn.Parameter(meta[id(p)], requires_grad=False) for p in self.selector.parameters()}
        model = copy.deepcopy(self.selector, meta)
        with flop_counter() as counter:
            model(torch.empty(1, *self.selector.clip_shape, device="meta"))
        return counter.get_total_flops() / 1e9

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for model in (self.selector, *self._experts()):
            model.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(("_time_pos", "_space_pos"))}


def as_one_batch(video: torch.Tensor) -> bool:
    """Tell whether clips of different experts run together. A GPU would wait for the host between experts, with one or
    two clips for each; a CPU would only copy weights."""
    return video.is_cuda and not torch.is_grad_enabled()


class _Body(nn.Module):
    """A CAST without its head: (B, C, T, H, W) -> (B, D)."""

    def __init__(self, cast: nn.Module) -> None:
        super().__init__()
        self.cast: Any = cast

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.cast.forward_head(self.cast.forward_features(video), pre_logits=True)


def _shared(model: CAST) -> Iterator[nn.Module | torch.Tensor]:
    """Yield modules in which nothing is trained, the other frozen parameters, and buffers, which are fixed tables."""
    trained = {id(parameter) for name, parameter in model.named_parameters() if is_trained(name)}
    for module in model.modules():
        if not any(id(parameter) in trained for parameter in module.parameters()):
            yield module
    yield from (parameter for parameter in model.parameters() if id(parameter) not in trained)
    yield from model.buffers()


def _in_one_piece(model: CAST) -> CAST:
    """Put what is trained of ``model`` into one piece of memory: of 500 separate tensors each fills its last page in
    part, 1 MB per expert."""
    trained = [parameter for name, parameter in model.named_parameters() if is_trained(name)]
    sizes = [math.ceil(parameter.numel() / 16) * 16 for parameter in trained]  # 64 bytes, as torch aligns tensors
    whole = trained[0].new_empty(sum(sizes))
    for parameter, piece in zip(trained, whole.split(sizes), strict=True):
        parameter.data = piece[: parameter.numel()].view_as(parameter).copy_(parameter.data)
    return model


def vote(said: torch.Tensor, chosen: torch.Tensor, normaliser: torch.Tensor, method: str) -> torch.Tensor:
    """Map (B, k, K) logits of k experts, -inf where one says nothing -> (B, K) scores that rank the classes.

    Args:
        chosen: (B, k), the selector's logits of these experts' groups, the highest first.
        normaliser: (B,), logsumexp of the selector's logits of all groups.
        method: ``maxlogit``: the highest logit that any expert gives a class. ``selector_weighted``: the same of logits
            times the selector's probability of the expert's group. ``majority``: each expert has one vote, for its
            highest class; scores are votes, a tie going to the class that the expert with the higher selector score
            votes for.

    A class of which no expert says anything gets -inf; by majority every class without a vote gets 0.
    """
    if method == "maxlogit":
        return said.amax(dim=1)
    if method == "selector_weighted":
        weight = (chosen - normaliser[:, None]).exp().unsqueeze(2)  # (B, k, 1)
        return torch.where(said.isinf(), said, said * weight).amax(dim=1)
    if method == "majority":
        k = said.shape[1]
        ballots = torch.zeros_like(said).scatter(2, said.argmax(dim=2, keepdim=True), 1.0)
        # below 1 and falling with the expert's place, so that it decides between equally many votes and no others
        seniority = (torch.arange(k, 0, -1, device=said.device) / (k + 1)).to(said)
        return ballots.sum(dim=1) + (ballots * seniority[None, :, None]).amax(dim=1)
    raise ArgumentError(f"vote {method!r}: choose one of {', '.join(VOTES)}")
