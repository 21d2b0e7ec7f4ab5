"""Models. Importing a file registers its classes; one line for each."""

from dust.models import timesformer
from dust.models.build import MODEL_REGISTRY, build_model

__all__ = ["MODEL_REGISTRY", "build_model", "timesformer"]
