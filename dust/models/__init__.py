"""Models. Importing a file registers its classes; one line for each."""

from dust.models import dual_swin, swin, timesformer
from dust.models.build import MODEL_REGISTRY, build_model

__all__ = ["MODEL_REGISTRY", "build_model", "dual_swin", "swin", "timesformer"]
