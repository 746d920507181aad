"""A process that writes: says what its store counted, for tests that know what the system was asked for.

    python writing_child.py FILE
"""

import os
import sys

from edgerev.daemon.database import written_bytes
from edgerev.daemon.store import Arrival, Store


def main():
    Store(sys.argv[1], 256, 4, 10_000).close()
    store = Store(sys.argv[1], 256, 4, 10_000)
    first, written = store.writes, written_bytes()
    os.write(1, b"begin\n")
    for number in range(400):
        store.put([Arrival(os.urandom(256), bytes(4), f"key {number}")])
        if number % 20 == 19:
            store.advance(number - 5, [os.urandom(number * 1000)])
    store.put([Arrival(os.urandom(256), None, f"more {number}") for number in range(9_000)])  # more than the log may be
    store.advance(400, [os.urandom(5_000_000)])
    counted = (now - before for now, before in zip((*store.writes, written_bytes()), (*first, written)))
    os.write(1, b"end %d %d %d\n" % (*counted,))


if __name__ == "__main__":
    main()
