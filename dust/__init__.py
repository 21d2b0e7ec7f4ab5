"""dust: video recognition from your own clips, sensors, point tracks and procedures."""

from dust.moved import open_doors
from dust.utils.package import offered

__version__ = "0.1.0"
#: What users ask for most, imported when it is asked for.
PUBLIC = {
    "VideoReader": "dust.decode.reader",
    "build_model": "dust.models",
    "load": "dust.deploy.loading",
    "load_config": "dust.config",
    "load_weights": "dust.utils.checkpoint",
}
__all__ = ["__version__", *PUBLIC]
open_doors()
__getattr__, __dir__ = offered(__name__, PUBLIC)
