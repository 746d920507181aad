"""The promise of fixed memory, measured from outside: what a training process takes besides its imports."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import toys

MIB = 1 << 20

STEADY = """
    import json, sys
    import numpy as np
    import edgerev.contents  # saving would import it midway
    from edgerev import SGD, AdamW, Learner, preset
    from edgerev.kernels import library
    from edgerev.tools.memory import peak_rss_bytes, reset_peak_rss, rss_bytes

    library.load()
    name, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    budget, path = (*sys.argv[4:], "", "")[:2]
    random = np.random.default_rng(0)
    net = preset(name)
    x = random.normal(size=(batch, *net.input_shape)).astype("f4")
    y = random.integers(0, 10, batch)
    reset_peak_rss()
    before = rss_bytes()
    learner = Learner(net, optimizer=SGD(1e-4), batch=batch, budget=budget or None)
    for _ in range(50):
        learner.learn_many(x, y)
    peak, settled = peak_rss_bytes(), rss_bytes()
    reset_peak_rss()
    for step in range(steps):
        learner.learn_many(x, y)
        if path and step % 1000 == 999:
            learner.save(path)
    print(json.dumps({
        "extra": peak - before, "growth": peak_rss_bytes() - settled, "arena": learner.plan.arena_bytes,
    }))
"""


def run(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def test_a_training_process_takes_its_arena_and_little_more():
    for name, batch in (("mlp16", 16), ("har12", 16), ("vis8", 4), ("mlp200", 16), ("mlp1000", 16)):
        found = run(STEADY, name, batch, 1)
        assert found["extra"] <= 1.05 * found["arena"] + 2 * MIB, (name, found)


def test_the_search_for_a_schedule_takes_no_more_than_the_arena():
    for budget in ("20MiB", "15MiB"):  # all functions stored, and some
        found = run(STEADY, "mlp200", 16, 1, budget)
        assert found["arena"] <= int(budget[:2]) * MIB
        assert found["extra"] <= 1.05 * found["arena"] + 2 * MIB, (budget, found)


def test_memory_does_not_grow_over_20000_steps_and_20_checkpoints(tmp_path):
    found = run(STEADY, "mlp4", 4, 20_000, "", tmp_path / "model.edgerev")
    assert found["growth"] <= 256 << 10, found


SAVING = """
    import json, os, sys
    from edgerev.cli.progress import progress
    from edgerev.config import check_config
    from edgerev.data import open_dataset
    from edgerev.train import Trainer

    name, folder = sys.argv[1:]
    config = check_config({"net": {"preset": name}, "train": {"epochs": 2}})
    dataset, output = open_dataset(folder + "/data", cache=folder + "/cache"), folder + "/model.edgerev"
    resume = os.path.exists(output)
    trainer = Trainer(config, dataset, output, progress)
    if resume:
        trainer.resume()
    report = trainer.run()
    print(json.dumps({"extra": report.peak_rss_bytes - report.ready_rss_bytes, "arena": report.arena_bytes}))
"""


def test_saving_and_loading_take_nothing_that_grows_with_depth(tmp_path):
    (tmp_path / "data").mkdir()
    for part in ("train", "test"):
        toys.write_csv(tmp_path / "data" / f"{part}.csv", *toys.rows(64))
    for name in ("mlp200", "mlp1000"):
        run(SAVING, name, tmp_path)  # the first run converts the data, which is no part of the promise
        for _ in ("resuming", "from the start"):
            found = run(SAVING, name, tmp_path)
            assert found["extra"] <= 1.05 * found["arena"] + 2 * MIB, (name, found)
            for file in tmp_path.glob("model*"):
                file.unlink()


STREAMED = """
    import json, sys
    from edgerev.config import check_config
    from edgerev.data import open_dataset
    from edgerev.cli.progress import progress
    from edgerev.train import Trainer

    folder, budget = sys.argv[1], int(sys.argv[2])
    dataset = open_dataset(folder + "/data", cache=folder + "/cache")
    config = check_config({
        "net": {"preset": "table"}, "train": {"epochs": 1, "batch": 16, "budget": budget},
    })
    report = Trainer(config, dataset, folder + "/model.edgerev", progress).run()
    print(json.dumps({
        "extra": report.peak_rss_bytes - report.ready_rss_bytes, "arena": report.arena_bytes, "samples": report.samples,
    }))
"""


FEATURES = 1024


def test_a_data_set_ten_times_the_budget_streams(tmp_path):
    """Rows of random bytes, converted once and then read sample by sample."""
    budget = 4 * MIB
    random = np.random.default_rng(0)
    count = 10 * budget // FEATURES
    (tmp_path / "data").mkdir()
    for part, size in (("train", count), ("test", 100)):
        samples = random.integers(0, 256, (size, FEATURES), dtype="u1")
        np.savez(tmp_path / "data" / f"{part}.npz", x=samples, y=random.integers(0, 10, size))
    found = run(STREAMED, tmp_path, budget)
    assert found["arena"] <= budget
    assert found["extra"] <= 1.05 * found["arena"] + 2 * MIB, found
