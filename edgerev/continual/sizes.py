"""What remembering costs: the bytes of a checkpoint, and those of them that answering needs."""

from __future__ import annotations

from edgerev.contents import KeptTensors
from edgerev.kernels import layout
from edgerev.learner import Learner
from edgerev.program import Region


def model_bytes(learner: Learner) -> int:
    """Return the bytes of parameters that predictions read: what an export for inference holds."""
    program = learner.runtime.program
    first, last = program.sections["encode"][0], program.sections["read_out"][1]
    used = {
        number
        for row in range(first, last)
        for number in program.rows[row * layout.ROW + layout.OPERANDS : row * layout.ROW + layout.PARAMETERS]
        if number >= 0 and program.regions[number] is Region.PARAMETERS
    }
    return sum(program.decode_tensor(number).nbytes for number in used)


def state_bytes(learner: Learner) -> int:
    """Return the bytes of a checkpoint beyond those of `model_bytes`: all that is kept for learning and remembering."""
    return sum(view.nbytes for *_, view in KeptTensors(learner.runtime)) - model_bytes(learner)
