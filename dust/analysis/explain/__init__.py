"""Why a model answers as it does: maps of what it looks at, and what it loses without each part of its input."""

from dust.analysis.explain.explain import Explanation, explain, write_explanation, write_pictures

__all__ = ["Explanation", "explain", "write_explanation", "write_pictures"]
