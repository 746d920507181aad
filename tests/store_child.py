"""A process to be killed: sends samples to a store and trains on them, and says what was acknowledged.

    python store_child.py FILE FIRST [SYNCHRONOUS]

The "model" is a checksum over all samples in their order, so whatever is lost, repeated or moved shows. Writes a line
for each acknowledged sample. SYNCHRONOUS is SQLite's, for tests that find out what a careless store loses.
"""

import hashlib
import itertools
import os
import sys
import threading

from edgerev.daemon.store import Arrival, Store

SIZE = 24


def sample(number):
    return hashlib.sha256(number.to_bytes(8, "little")).digest()[:SIZE]


def trained(model, samples):
    for one in samples:
        model = hashlib.sha256(model + one.x + one.y).digest()
    return model


def newest(store):
    """Return model and number of the last sample of the newest generation."""
    found = store.generations()
    return (b"".join(store.generation(found[0])) if found else b""), store.trained


def main():
    store = Store(sys.argv[1], SIZE, 4, 1000)
    if len(sys.argv) > 3:
        store._db.execute(f"PRAGMA synchronous={sys.argv[3]}")

    def send():
        for number in itertools.count(int(sys.argv[2])):
            while len(store) > 50:
                os.sched_yield()
            store.put([Arrival(sample(number), number.to_bytes(4, "little"), str(number))])
            os.write(1, b"%d\n" % number)

    threading.Thread(target=send, daemon=True).start()
    model, after = newest(store)
    while True:
        samples = store.ready(after, 7)
        if samples:
            model, after = trained(model, samples), samples[-1].number
            store.advance(after, [model])


if __name__ == "__main__":
    main()
