"""What a check says, and the ranges that it knows: for the core's checks and for each system's own."""

import math
from dataclasses import dataclass

INF = math.inf

#: (lowest, highest, lowest itself allowed, highest itself allowed)
Range = tuple[float, float, bool, bool]
COUNT: Range = (1, INF, True, False)
FROM_ZERO: Range = (0, INF, True, False)
POSITIVE: Range = (0, INF, False, False)
FRACTION: Range = (0, 1, True, True)
BELOW_ONE: Range = (0, 1, True, False)


@dataclass(frozen=True)
class Problem:
    """What is wrong, and the keys that it is about."""

    keys: tuple[str, ...]
    text: str
