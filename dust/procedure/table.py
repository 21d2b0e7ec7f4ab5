"""The table of a procedure: components, the three steps of each, and which of them are expected.

IndustReal's format (https://arxiv.org/abs/2310.17323). Step id = 3 * component + 0 (install), 1 (install wrongly) or
2 (remove).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dust.utils.errors import DataError

State = tuple[int, ...]
INSTALL, INSTALL_WRONGLY, REMOVE = 0, 1, 2


@dataclass(frozen=True)
class Procedure:
    """What is to be done: the steps that are expected, and the components' states (0 or 1) at the start."""

    expected: frozenset[int]
    start_state: State

    @property
    def num_components(self) -> int:
        return len(self.start_state)

    @classmethod
    def from_table(cls, table: Sequence[Mapping[str, Any]], start_state: str, name: str = "assy") -> "Procedure":
        """Build a procedure from the rows of a ``procedure_info.json`` and a string of states such as "10000000000".

        ``name`` selects the column ``expected_in_<name>``. DataError lists every row that does not follow the rule
        id = 3 * state_idx + {0 install, 1 install wrongly, 2 remove}.
        """
        problems, expected = [], set()
        column = f"expected_in_{name}"
        if not start_state or set(start_state) - {"0", "1"}:
            problems.append(f"start state {start_state!r}: must be zeros and ones, one for each component")
        if len(table) != 3 * len(start_state):
            problems.append(f"{len(table)} rows for {len(start_state)} components: each component has three steps")
        for row, step in enumerate(table):
            missing = [key for key in ("id", "state_idx", "install", column) if key not in step]
            if missing:
                problems.append(f"row {row} has no {', '.join(missing)}")
                continue
            if step["id"] != row or step["state_idx"] != row // 3 or step["install"] != (row % 3 != REMOVE):
                problems.append(
                    f"row {row} is id {step['id']}, state_idx {step['state_idx']}, install {step['install']}: "
                    f"row i must be id i, state_idx i // 3, and install unless i % 3 is 2"
                )
            if step[column]:
                expected.add(step["id"])
        if problems:
            raise DataError("the procedure table cannot be used: " + "; ".join(problems))
        return cls(frozenset(expected), tuple(int(digit) for digit in start_state))


def state_vectors(names: Sequence[str]) -> dict[int, State]:
    """Map class number -> components' states, for the classes whose name is a string of zeros and ones. The others,
    such as ``background`` and ``error_state``, suggest no step."""
    vectors = {i: tuple(map(int, name)) for i, name in enumerate(names) if name and not set(name) - {"0", "1"}}
    lengths = sorted({len(vector) for vector in vectors.values()})
    if len(lengths) != 1:
        raise DataError(f"state names have {lengths or 'no'} components: all must have the same number of digits")
    return vectors
