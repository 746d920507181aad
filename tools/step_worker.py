"""Our own step, served like a peer's (`tools/peer_step.py`): ``python -m edgerev.tools.step_worker --net mlp16``.

Each line of standard input is a number of seconds, answered by a line of JSON with the mean milliseconds of a step.
"""

from __future__ import annotations

import argparse
import json
import sys

from edgerev.tools.bench_step import step_learner
from edgerev.tools.memory import peak_rss_bytes
from edgerev.tools.timing import burst


def main() -> int:
    """Serve steps of a preset until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="mlp16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    learner = step_learner(args.net, batch=args.batch, threads=args.threads)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        step_ms = burst(lambda: learner.step(args.batch), float(line)) * 1e3
        print(json.dumps({"step_ms": step_ms, "peak_rss_bytes": peak_rss_bytes()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
