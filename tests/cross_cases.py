"""Nets that small C programs train in tests/test_cross.py, on every target."""

from edgerev.continual.consolidation import SynapticIntelligence
from edgerev.layers import (
    GELU,
    Adapter,
    Conv1d,
    Conv2d,
    Dense,
    Depthwise,
    Dropout,
    GroupNorm,
    Pointwise,
    ReLU,
    RMSNorm,
    SiLU,
)
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError, SoftCrossEntropy
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule
from edgerev.recipe import Augment, Recipe

BATCH = 3

LINEAR, SIGNAL, IMAGE = (Dense(8), ReLU(), Dense(8)), (Conv1d(6, 5), GELU(), Conv1d(6, 3)), (Conv2d(4, 3), SiLU())
STEPS = [("init", 1, 1), ("train", BATCH, 5), ("train", BATCH - 1, 2)]
RIDGE = [
    *STEPS, ("ridge_reset", 1, 1), ("encode", BATCH, 1), ("forward", BATCH, 1), ("ridge_add", BATCH, 3),
    ("ridge_solve", 1, 1), ("read_out", BATCH, 1), ("inverse", BATCH, 1),
]
CASES = {
    "mlp4": (
        Net((13,), Dense(16), (Block(LINEAR, repeat=4),), Head(10)),
        Recipe(BATCH, SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)), STEPS,
    ),
    "signal": (
        Net((16, 3), Conv1d(12, 5), (Block(SIGNAL), Squeeze(), Block((Conv1d(12, 3), ReLU()))), Head(5)),
        Recipe(BATCH, AdamW(0.01), RateSchedule("cosine", warmup=2, steps=6), augment=Augment(shift=2, noise=0.1)),
        STEPS,
    ),
    "image": (
        Net((8, 8, 3), Conv2d(8, 3), (Block(IMAGE), Squeeze(), Block((Conv2d(16, 3), GELU()))), Head(10, "flatten")),
        Recipe(BATCH, Lion(0.003), loss=CrossEntropy(smoothing=0.1), augment=Augment(shift=1, flip=True, noise=0.05)),
        STEPS,
    ),
    "separable": (
        Net(
            (8, 6, 2), Conv2d(16, 3),
            (Block((RMSNorm(), Depthwise(3), SiLU(), Pointwise(8), Dropout(0.2)), (GroupNorm(2), Conv2d(8, 3))),),
            Head(4),
        ),
        Recipe(BATCH, AdamW(0.01), clip=Clip(0.5), loss=BinaryCrossEntropy()), STEPS,
    ),
    "int16": (
        Net((12,), Dense(16), (Block((RMSNorm(), *LINEAR), repeat=2),), Head(3), state="int16"),
        Recipe(BATCH, SGD(0.02), clip=Clip(0.1, "adaptive"), loss=MeanSquaredError(), atomic=True), STEPS,
    ),
    "float32": (
        Net((12,), Dense(16), (Block(LINEAR, repeat=2),), Head(3), state="float32"), Recipe(BATCH, Lion(0.003)), STEPS,
    ),
    # minimal filtering in both directions and in one, sample by sample
    "winograd image": (
        Net((16, 16, 2), Conv2d(32, 3), (Block((Conv2d(32, 3), ReLU(), Conv2d(16, 3))),), Head(4)),
        Recipe(BATCH, SGD(0.02, momentum=0.9)), STEPS,
    ),
    "winograd signal": (
        Net((64, 3), Conv1d(32, 5), (Block((Conv1d(16, 5), ReLU(), Conv1d(16, 3))),), Head(4)),
        Recipe(BATCH, AdamW(0.01)), STEPS,
    ),
    # panels of B, columns that fill no vector, and SGD within the product
    "wide": (Net((70,), Dense(140), (Block((Dense(300), ReLU(), Dense(70))),), Head(7)), Recipe(64, SGD(0.02)), [
        ("init", 1, 1), ("train", 64, 2), ("train", 61, 1), ("train", 1, 2),
    ]),
    "ridge": (
        Net((8, 8, 1), Conv2d(8, 3), (Block((Conv2d(4, 3), ReLU())), Squeeze()), Head(10, kind="ridge")),
        Recipe(BATCH, SGD(0.02)), RIDGE,
    ),
}

# 200 steps of batch 2 over every layer, optimizer, loss, kind of state and head; images of 8 x 8.
PAIR, MANY, DROP = 2, [("init", 1, 1), ("train", 2, 200)], Dropout(0.1)
LONG = {
    "long image adamw": (
        Net(
            (8, 8, 2), Conv2d(8, 3),
            (
                Block((GroupNorm(2), Conv2d(4, 3), SiLU()), (RMSNorm(), Depthwise(3), GELU(), Pointwise(4), DROP)),
                Squeeze(), Block((Conv2d(6, 3), ReLU(), Conv2d(16, 1))),
            ),
            Head(5),
        ),
        Recipe(
            PAIR, AdamW(0.003), RateSchedule("cosine", warmup=10, steps=180), loss=CrossEntropy(smoothing=0.1),
            augment=Augment(shift=1, flip=True, noise=0.05),
        ),
        MANY,
    ),
    "long image sgd": (
        Net((8, 8, 1), Conv2d(8, 5), (Block((Depthwise(5), ReLU(), Pointwise(4))), Squeeze()), Head(3, "flatten")),
        Recipe(PAIR, SGD(0.01, momentum=0.9, nesterov=True, weight_decay=1e-3), clip=Clip(1.0)), MANY,
    ),
    "long image lion": (
        Net((8, 8, 2), Conv2d(8, 3), (Block((Conv2d(4, 3), GELU(), GroupNorm(1))),), Head(3), state="int16"),
        Recipe(PAIR, Lion(0.001), clip=Clip(0.5, "adaptive"), loss=MeanSquaredError()), MANY,
    ),
    "long signal": (
        Net((16, 3), Conv1d(8, 5), (Block((Conv1d(6, 5), SiLU(), Conv1d(4, 3))), Squeeze()), Head(4)),
        Recipe(PAIR, AdamW(0.003, weight_decay=0.01), clip=Clip(1.0, "global"), loss=BinaryCrossEntropy()), MANY,
    ),
    "long features": (
        Net((12,), Dense(16), (Block((RMSNorm(), Dense(20), SiLU(), Dropout(0.2), Dense(8)), repeat=3),), Head(10)),
        Recipe(PAIR, SGD(0.02)), MANY,
    ),
    "long float32": (
        Net((12,), Dense(16), (Block((Dense(8), GELU(), Dense(8)), repeat=2),), Head(3), state="float32"),
        Recipe(PAIR, Lion(0.001), loss=MeanSquaredError(), atomic=True), MANY,
    ),
    "long adapters": (
        Net(
            (12,), Dense(16), (Block((Adapter(3), Dense(8), ReLU(), Dense(8)), repeat=2),),
            Head(3, rectify=True, tasks=2),
        ),
        Recipe(
            PAIR, SGD(0.02, momentum=0.5), loss=SoftCrossEntropy(), consolidation=SynapticIntelligence(0.5, 0.1),
        ),
        [*MANY, ("put_away", 1, 1), ("consolidate", 1, 1), *MANY],
    ),
    "long sums": (
        Net(
            (8, 8, 1), Conv2d(8, 3), (Block((Conv2d(4, 3), ReLU())), Squeeze()),
            Head(5, kind="prototype", sums="int64", pool=2, expansion=(ReLU(), Conv2d(6, 3), ReLU())),
        ),
        Recipe(PAIR, SGD(0.02)),
        [
            *MANY, ("encode", PAIR, 1), ("forward", PAIR, 1), ("ridge_range", PAIR, 1), ("ridge_add", PAIR, 3),
            ("ridge_solve", 1, 1), ("read_out", PAIR, 1), ("inverse", PAIR, 1),
        ],
    ),
    "long ridge": (
        Net((8, 8, 1), Conv2d(8, 3), (Block((Conv2d(4, 3), ReLU())), Squeeze()), Head(5, kind="ridge")),
        Recipe(PAIR, SGD(0.02)),
        [
            *MANY, ("ridge_reset", 1, 1), ("encode", PAIR, 1), ("forward", PAIR, 1), ("ridge_add", PAIR, 3),
            ("ridge_solve", 1, 1), ("read_out", PAIR, 1), ("inverse", PAIR, 1),
        ],
    ),
}  # fmt: skip
