"""A wristband meets a new wearer: it gets used to them by its own answers, without a single label.

    python new_wearer.py FOLDER      the folder has hmp.npz: samples, length, label and volunteer of each recording
"""

import sys

import numpy as np

from edgerev import Conv1d, Head, Learner, Net
from edgerev.continual.guard import Guard
from edgerev.continual.scenarios import new_wearer
from edgerev.continual.unlabelled import pseudo_labels

WINDOW, STEP = 128, 64  # 4 s at 32 Hz
WEARERS = (0, 1, 3, 5, 8, 9)  # with 30 recordings or more, and two of seven activities


def windows(data):
    """Return windows `(n, time, channels)`, and label, wearer and recording of each."""
    ends = np.cumsum(data["length"])
    starts = [range(end - size, max(end - WINDOW, end - size) + 1, STEP) for end, size in zip(ends, data["length"])]
    recording = np.repeat(np.arange(len(ends)), [len(places) for places in starts])
    g = data["samples"].astype("f4") * (3 / 63) - 1.5
    spans = [(at, min(at + WINDOW, end)) for places, end in zip(starts, ends) for at in places]
    cut = np.stack([np.resize(g[start:end], (WINDOW, 3)) for start, end in spans])
    x = np.concatenate([cut / 0.5, (cut - cut.mean(1, keepdims=True)) / 0.2], 2)  # posture, and movement about it
    label, wearer = (np.unique(data[name], return_inverse=True)[1][recording] for name in ("label", "volunteer"))
    return x, label, wearer, recording


def adapt(x, y, wearer, recording, held):
    """Return the share of right answers on a wearer's later recordings, before and after the earlier ones."""
    others, own = new_wearer(wearer.tolist(), held, y.tolist(), recording.tolist())
    # class means under one covariance of random features, as sums: they are all that is kept
    head = Head(int(y.max()) + 1, kind="prototype", ridge=1e-3, pool=2, rectify=True)
    learner = Learner(Net((WINDOW, 6), Conv1d(128, 25), (), head), batch=8)
    learner.remember_many(x[others.train], y[others.train])
    before = (learner.predict_many(x[own.test]) == y[own.test]).mean()
    new, seen = x[own.train], learner.predict_proba_many(x[own.train])
    answers = pseudo_labels(seen, 0.0, recording[own.train].tolist())
    learner.fade(0.1)  # one window of the wearer for ten of the others
    learner.remember_many(new[answers.kept], answers.labels[answers.kept])
    guard = Guard().check(seen, learner.predict_proba_many(new))
    after = (learner.predict_many(x[own.test]) == y[own.test]).mean()
    print(f"wearer {held}: {before:.1%} of windows right, then {after:.1%}; the guard accepts it: {guard.accepted}")
    return before, after


def main(folder):
    """Hold out the wearers one by one; return both means."""
    data = windows(np.load(f"{folder}/hmp.npz"))
    means = np.mean([adapt(*data, held) for held in WEARERS], 0)
    print("    mean: {:.1%}, then {:.1%}; no label used, no window kept".format(*means))
    return means


if __name__ == "__main__":
    main(sys.argv[1])
