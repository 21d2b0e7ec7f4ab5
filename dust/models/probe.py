"""Probe: a backbone, frozen or nearly so, with a small head on its tokens; both are one model.

"V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning", Assran et al. 2025,
https://arxiv.org/abs/2506.09985, trains such heads over a grid of learning rates and weight decays in one pass, and
keeps what is best in validation. Written for dust; Apache-2.0.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from dust.config import with_values
from dust.models.backbones import no_tokens, sha256_of_backbone
from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.layers.lora import add_lora, without_lora
from dust.models.layers.probes import HEADS, AttentiveProbe, KNNProbe, LinearProbe, TokenHead
from dust.models.layers.tokens import POOLINGS, TokenPooling
from dust.models.protocol import ChecksActivations, GivesTokens, HasLayers, no_weight_decay
from dust.utils.checkpoint import load_weights, read_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DustError
from dust.utils.features import FeatureStore
from dust.utils.stages import stage_features

WILD = 1e15  # a gradient's largest value above which a head of a grid has diverged
HASH = "backbone_sha256"  # the entry of a partial state dict that names the backbone, 32 bytes


def grid_name(lr: float, weight_decay: float) -> str:
    """Return how figures of one head of a grid begin: ``lr0.001_wd0.05``."""
    return f"lr{lr:g}_wd{weight_decay:g}"


@MODEL_REGISTRY.register()
class Probe(nn.Module):
    """Video (B, C, T, H, W), or its stored tokens (B, N, D) -> logits (B, num_classes).

    With several heads (``grid``) it gives {"logits": those of the chosen head, "heads": (B, G, num_classes)} in
    training and for tokens, where the heads are compared; for video the logits of the chosen head alone.

    Args:
        backbone: a registered model that gives tokens (:class:`dust.models.protocol.GivesTokens`).
        backbone_arguments: of its constructor.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, D).
        pooling: arguments of :class:`dust.models.layers.tokens.TokenPooling`; stored tokens are pooled already.
        head: ``attentive`` | ``linear`` | ``knn``.
        head_arguments: of its class in :mod:`dust.models.layers.probes`, besides width and classes.
        grid: learning rate and weight decay of each head; none for one head at the solver's.
        base_lr: the solver's learning rate, over which those of the grid are factors.
        unfreeze_blocks: blocks of the backbone that learn, counted from the end; -1 for all of it.
        lora_rank, lora_alpha, lora_targets: of adapters in the frozen rest, see :mod:`dust.models.layers.lora`; rank 0
            for none.
        backbone_from, head_from: files that backbone and head begin with, for :meth:`load_parts`; "" for none.
        backbone_weights: raw | averaged | auto (raw) of a file with both.
        tokens_from, output_dir: the stage of the tokens that it learns of, and the folder beside which that lies: the
            backbone must be the one that made them; "" for none.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
    """

    chosen: torch.Tensor
    silent_outputs = frozenset({"heads"})  # a head of the grid may diverge: -inf stands there

    def __init__(
        self,
        *,
        backbone: str,
        backbone_arguments: Mapping[str, Any],
        num_classes: int = 400,
        pooling: Mapping[str, Any] | None = None,
        head: str = "attentive",
        head_arguments: Mapping[str, Any] | None = None,
        grid: Sequence[tuple[float, float]] = (),
        base_lr: float = 1.0,
        unfreeze_blocks: int = 0,
        lora_rank: int = 0,
        lora_alpha: float = 16.0,
        lora_targets: Sequence[str] = ("q", "v"),
        backbone_from: str = "",
        backbone_weights: str = "auto",
        head_from: str = "",
        tokens_from: str = "",
        output_dir: str = ".",
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(
            "Probe",
            above_zero={},
            from_zero={"num_classes": num_classes, "lora_rank": lora_rank},
            choices={"head": (head, HEADS), "pooling": ((pooling or {}).get("kind", "all"), POOLINGS)},
        )
        model = MODEL_REGISTRY.get(backbone)(**backbone_arguments)
        if not isinstance(model, GivesTokens) or not isinstance(model, nn.Module):
            raise ConfigError(f"PROBE.BACKBONE {backbone}: {no_tokens(type(model).__name__)}")
        self.backbone: Any = model
        self.pooling = TokenPooling(**(pooling or {}))
        self.num_classes, self.num_features = num_classes, model.token_dim
        self.rates, self.base_lr = [tuple(pair) for pair in grid], base_lr
        cls: Any = {"attentive": AttentiveProbe, "linear": LinearProbe, "knn": KNNProbe}[head]
        if head == "attentive":
            heads = (head_arguments or {}).get("num_heads", 16)
            check_arguments("Probe", above_zero={}, multiples=[("token_dim", model.token_dim, "num_heads", heads)])
        first: TokenHead = cls(model.token_dim, num_classes, **(head_arguments or {}))
        # the same first weights: the heads of a grid differ by their rates alone
        self.heads = nn.ModuleList([first, *(copy.deepcopy(first) for _ in self.rates[1:])])
        if len(self.heads) > 1:
            for parameter in self.heads.parameters():
                parameter.register_hook(_without_wild)
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        self._chosen = 0
        self.backbone.requires_grad_(False)
        self._unfreeze(unfreeze_blocks)
        if lora_rank:
            add_lora(self.backbone, lora_rank, lora_alpha, lora_targets)
        self.frozen = not any(parameter.requires_grad for parameter in self.backbone.parameters())
        parts = (("backbone", "BACKBONE_FROM", backbone_from), ("head", "HEAD_FROM", head_from))
        self.init_from = {part: (f"PROBE.{key}", path) for part, key, path in parts if path}
        self.backbone_weights, self.tokens_from, self.output_dir = backbone_weights, tokens_from, output_dir
        self._backbone_sha256 = ""
        self.set_grad_checkpointing(act_checkpoint)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for; those of the backbone are read by its own class."""
        node, features, solver = cfg.PROBE, cfg.FEATURES, cfg.SOLVER
        backbone: Any = MODEL_REGISTRY.get(node.BACKBONE)
        gives = isinstance(backbone, GivesTokens)
        if not gives:
            raise ConfigError(f"PROBE.BACKBONE {node.BACKBONE}: {no_tokens(node.BACKBONE)}")
        own = with_values(cfg, {"MODEL.MODEL_NAME": node.BACKBONE, "MODEL.NUM_CLASSES": 0})
        options = {
            "attentive": {"depth": node.DEPTH, "num_heads": node.NUM_HEADS, "norm_eps": node.EPS},
            "linear": {},
            "knn": {"neighbours": node.NEIGHBOURS, "temperature": node.TEMPERATURE},
        }
        rates = [(lr, wd) for lr in node.LRS or [solver.BASE_LR] for wd in node.WEIGHT_DECAYS or [solver.WEIGHT_DECAY]]
        return {
            "backbone": node.BACKBONE,
            "backbone_arguments": backbone.from_config(own),
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "pooling": {
                "kind": features.TOKENS, "grid": tuple(features.TOKEN_GRID), "num_queries": features.TOKEN_QUERIES
            },
            "head": node.HEAD,
            "head_arguments": options[node.HEAD],
            "grid": rates if node.LRS or node.WEIGHT_DECAYS else [],
            "base_lr": solver.BASE_LR,
            "unfreeze_blocks": node.UNFREEZE_BLOCKS,
            "lora_rank": node.LORA_RANK,
            "lora_alpha": node.LORA_ALPHA,
            "lora_targets": list(node.LORA_TARGETS),
            "backbone_from": node.BACKBONE_FROM,
            "backbone_weights": node.BACKBONE_WEIGHTS,
            "tokens_from": node.TOKENS_FROM if cfg.TRAIN.ENABLE else "",
            "output_dir": cfg.OUTPUT_DIR,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
            "head_from": node.HEAD_FROM if cfg.TRAIN.ENABLE else "",  # what is tested has its own
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------------------- forward

    def forward(
        self,
        video: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        answers: torch.Tensor | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Map (B, C, T, H, W) float, or tokens (B, N, D) of any float type -> logits, see above. ``answers`` (B,):
        classes that nearest neighbours remember in training."""
        if (video is None) == (tokens is None):
            raise DustError("Probe takes either video or tokens")
        compared = len(self.heads) > 1 and (self.training or tokens is not None)
        tokens = tokens.to(self._dtype()) if tokens is not None else self.forward_features(video)
        if tokens.shape[-1] != self.num_features:
            raise DustError(f"Probe got tokens {tuple(tokens.shape)}; its backbone's have {self.num_features} channels")
        first = self.heads[0]
        if self.training and isinstance(first, KNNProbe):
            if answers is None:
                raise DustError("PROBE.HEAD knn learns from stored tokens: set TRAIN.DATASET StoredTokens")
            first.remember(tokens, answers)
        if not compared:
            return self.heads[self._chosen](tokens)
        logits = type(first).together(self.heads, tokens)  # type: ignore[attr-defined]
        if not self.training:
            finite = torch.isfinite(logits).all(dim=2, keepdim=True)
            logits = torch.where(finite, logits, -torch.inf)
        answer = logits[:, self._chosen]
        if not self.training:  # the best of the others is looked for
            answer = torch.where(finite[:, self._chosen], answer, torch.zeros_like(answer))
        return {"logits": answer, "heads": logits}

    def forward_features(self, video: torch.Tensor | None) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> the tokens (B, N, D) that the heads see."""
        learns = not self.frozen or (video is not None and video.requires_grad)  # the second: a video is explained
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.pooling(*self.backbone.forward_tokens(video))

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map tokens (B, N, D) -> logits (B, K) of the chosen head; or with ``pre_logits`` its features (B, D)."""
        head: Any = self.heads[self._chosen]
        return head.pool(tokens) if pre_logits else head(tokens)

    def _dtype(self) -> torch.dtype:
        return next(self.heads.parameters()).dtype

    def train(self, mode: bool = True) -> "Probe":
        """Switch to training as usual; what is frozen stays in evaluation: nothing is dropped there, and norms keep
        their statistics."""
        super().train(mode)
        if mode:
            for module in self.backbone.modules():
                own = list(module.parameters())
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()
            if self.frozen:
                self.backbone.eval()
        return self

    # ---------------------------------------------------------------------------------------- what learns, and how fast

    def _unfreeze(self, blocks: int) -> None:
        if not blocks:
            return
        if blocks == -1:
            chosen = {name for name, _ in self.backbone.named_parameters()}
        else:
            layers = _layers_of(self.backbone)
            last = max(layers.values())
            if not 0 < blocks < last:
                raise ConfigError(f"PROBE.UNFREEZE_BLOCKS {blocks}: the backbone has {last - 1} blocks; write 1 to "
                                  f"{last - 1}, or -1 for all of it")  # fmt: skip
            chosen = {name for name, layer in layers.items() if layer >= last - blocks}
        for name, parameter in self.backbone.named_parameters():
            beyond = re.search(self.backbone.beyond_tokens, name)
            parameter.requires_grad_(name in chosen and not beyond)

    def lr_scales(self) -> dict[str, float]:
        """Return the rate of each head of the grid over the solver's."""
        rates = [lr / self.base_lr if self.base_lr else 1.0 for lr, _ in self.rates]
        return self._of_heads(rates)

    def weight_decays(self) -> dict[str, float]:
        """Return the weight decay of each head of the grid."""
        return self._of_heads([decay for _, decay in self.rates])

    def _of_heads(self, values: Sequence[float]) -> dict[str, float]:
        heads = zip(self.heads, values, strict=False)
        return {f"heads.{n}.{name}": v for n, (head, v) in enumerate(heads) for name, _ in head.named_parameters()}

    def no_weight_decay(self) -> set[str]:
        """Return the queries, and what the backbone says."""
        own = {name for name, _ in self.named_parameters() if name.endswith(("query_tokens", "log_temperature"))}
        return own | {f"backbone.{name}" for name in no_weight_decay(self.backbone)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the backbone's layers; the heads come last."""
        _layers_of(self.backbone)
        matcher = self.backbone.group_matcher(coarse)
        blocks = matcher["blocks"] if isinstance(matcher["blocks"], list) else [(matcher["blocks"], None)]
        return {"stem": _inside(matcher["stem"]), "blocks": [(_inside(pattern), more) for pattern, more in blocks]}

    def get_classifier(self) -> nn.Module:
        """Return all heads."""
        return self.heads

    def choose(self, metrics: Mapping[str, float]) -> None:
        """Take the head of the grid whose ``*_top1_acc`` (or ``*_map``) is highest; the first of equals."""
        names = [grid_name(*pair) for pair in self.rates]
        found = [metrics.get(f"{name}_top1_acc", metrics.get(f"{name}_map", -1.0)) for name in names]
        if len(self.heads) > 1:
            self._chosen = max(range(len(found)), key=lambda n: (found[n], -n))
            self.chosen.fill_(self._chosen)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations a second time in the backward pass, or keep them."""
        if isinstance(self.backbone, ChecksActivations):
            self.backbone.set_grad_checkpointing(enable)
        for head in self.heads:
            if isinstance(head, AttentiveProbe):
                head.act_checkpoint = enable

    # ------------------------------------------------------------------------------------------------------- weights

    def load_parts(self, paths: Mapping[str, Path]) -> None:
        """Fill the backbone, whole, and the heads from the files that ``init_from`` stands for."""
        if "backbone" in paths:
            with without_lora(self.backbone):
                report = load_weights(self.backbone, paths["backbone"], weights=self.backbone_weights)
                beyond = self.backbone.beyond_tokens
                absent = [name for name in report.absent if not re.search(beyond, name)]
                if absent:
                    raise CheckpointError(
                        f"PROBE.BACKBONE_FROM {self.init_from['backbone'][1]}: it does not fill the backbone: "
                        f"{', '.join(absent[:8])}{' ...' if len(absent) > 8 else ''} would stay random. Configure "
                        f"{type(self.backbone).__name__} as the file's. {report}"
                    )
                self._backbone_sha256 = sha256_of_backbone(self.backbone)
            self._check_tokens()
        if "head" in paths:
            self._load_head(paths["head"])

    def _check_tokens(self) -> None:
        if not self.tokens_from:
            return
        key = "PROBE.TOKENS_FROM"
        store = FeatureStore.open(stage_features(self.tokens_from, self.output_dir, key), "train")
        made_by = str(store.meta.get("backbone_sha256", "unknown"))
        if made_by != self._backbone_sha256:
            raise CheckpointError(
                f"PROBE.BACKBONE_FROM {self.init_from['backbone'][1]}: its weights (sha256 {self._backbone_sha256[:16]}"
                f"...) are not those that made the tokens of {key} {self.tokens_from} ({made_by[:16]}...): take that "
                "stage's FEATURES.CHECKPOINT_FILE_PATH, with PROBE.BACKBONE_WEIGHTS as there, or store the tokens again"
            )

    def _load_head(self, path: Path) -> None:
        """Begin every head as the chosen one of another Probe."""
        state = read_checkpoint(path).get("model_state")
        if not isinstance(state, Mapping) or "chosen" not in state:
            raise CheckpointError(f"PROBE.HEAD_FROM {path}: holds no probe; name a stage that trained model Probe")
        self._check_backbone(state, str(path))
        prefix = f"heads.{int(state['chosen'])}."
        head = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for own in self.heads:
            _load_exactly(own, head, str(path))

    def _check_backbone(self, state: Mapping[str, torch.Tensor], source: str) -> None:
        wanted = bytes(state[HASH].tolist()).hex() if HASH in state else ""
        if wanted and self._backbone_sha256 and wanted != self._backbone_sha256:
            named = self.init_from["backbone"][1]
            raise CheckpointError(
                f"{source}: trained on another backbone (sha256 {wanted[:16]}...) than PROBE.BACKBONE_FROM "
                f"{named} ({self._backbone_sha256[:16]}...): name the file that it was trained with"
            )

    def partial_state_dict(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint has to hold: heads, and of the backbone what learns, with its hash; all of it where
        the backbone has no file."""
        state = self.state_dict()
        if "backbone" not in self.init_from:
            return state
        kept = {name: state[name] for name in state if name in self._kept()}
        digest = bytearray.fromhex(self._backbone_sha256)
        return {**kept, HASH: torch.frombuffer(digest, dtype=torch.uint8)} if digest else kept

    def _kept(self) -> set[str]:
        kept = {name for name in self.state_dict() if not name.startswith("backbone.")}
        for name, module in self.named_modules():
            if not name.startswith("backbone"):
                continue
            learns = [own for own, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
            statistics = [own for own, _ in module.named_buffers(recurse=False)] if learns else []
            kept |= {f"{name}.{own}" for own in (*learns, *statistics)}
        return kept

    def load_partial(self, state: Mapping[str, torch.Tensor], source: str) -> None:
        """Take back what ``partial_state_dict`` gave. CheckpointError if it does not fit."""
        self._check_backbone(state, source)
        given = {name: value for name, value in state.items() if name != HASH}
        if any(name.startswith("backbone.") for name in self._missing(given)) and "backbone" not in self.init_from:
            raise CheckpointError(f"{source}: holds the probe alone: name its backbone in PROBE.BACKBONE_FROM")
        _load_exactly(self, given, source, optional={*self.state_dict()} - self._kept())

    def _missing(self, given: Mapping[str, torch.Tensor]) -> set[str]:
        return set(self.state_dict()) - set(given)

    def frozen_sha256(self) -> str:
        """Return which backbone it is: SHA-256, hex, of the file's tensors; "" where it has no file."""
        return self._backbone_sha256

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if not self.chosen.is_meta:
            self._chosen = int(self.chosen)


def _without_wild(grad: torch.Tensor) -> torch.Tensor:
    """Return zeros in place of a gradient that is not finite, or nearly so: the engine would end the run for it, while
    others are well."""
    return torch.where(grad.abs().amax() < WILD, grad, torch.zeros_like(grad))


def _layers_of(backbone: nn.Module) -> dict[str, int]:
    """Map parameter name -> its layer: 0 for the stem, 1 for the first block, ..."""
    from timm.models import group_parameters

    if not isinstance(backbone, HasLayers):
        raise ConfigError(f"{type(backbone).__name__} its blocks have no order (no group_matcher): unfreeze all "
                          "of it (PROBE.UNFREEZE_BLOCKS -1), and set SOLVER.LAYER_DECAY 1.0")  # fmt: skip
    return group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)


def _inside(pattern: str) -> str:
    """Return a pattern of the backbone's names as one of the whole model's."""
    return pattern.replace("^", r"^backbone\.", 1) if pattern.startswith("^") else pattern


def _load_exactly(
    module: nn.Module, state: Mapping[str, torch.Tensor], source: str, optional: set[str] | None = None
) -> None:
    """Load all tensors, or raise CheckpointError; those of ``optional`` need not be there."""
    try:
        result = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: does not fit {type(module).__name__}: {error}") from error
    missing = [name for name in result.missing_keys if name not in (optional or set())]
    if missing or result.unexpected_keys:
        words = [f"it lacks {', '.join(missing[:8])}"] * bool(missing)
        words += [f"it has {', '.join(result.unexpected_keys[:8])} besides"] * bool(result.unexpected_keys)
        raise CheckpointError(f"{source}: does not fit {type(module).__name__}: {'; '.join(words)}. Set PROBE.* as its "
                              "run did")  # fmt: skip
