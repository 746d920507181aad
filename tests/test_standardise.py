import numpy as np
import pytest

from edgerev.data import Records
from edgerev.data.standardise import statistics
from edgerev.errors import DataError, UsageError


def as_records(tmp_path, array):
    path = tmp_path / "set.records"
    path.write_bytes(np.ascontiguousarray(array).tobytes())
    return Records(path, 0, len(array), array.shape[1:], str(array.dtype))


def ref_statistics(array):
    rows = array.reshape(-1, array.shape[-1]).astype(np.longdouble)
    deviation = rows.std(axis=0)
    return rows.mean(axis=0), np.where(deviation == 0, 1, 1 / np.where(deviation == 0, 1, deviation))


@pytest.mark.parametrize("shape", [(1, 5), (7, 3), (30000, 12), (500, 64, 3), (90, 28, 28, 1), (2, 400, 400, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_agrees_with_one_pass_over_everything(tmp_path, shape, dtype):
    rng = np.random.default_rng(3)
    array = rng.integers(0, 256, shape).astype(dtype) if dtype == "uint8" else rng.normal(3, 2, shape).astype(dtype)
    comp_mean, comp_scale = statistics(as_records(tmp_path, array))
    ref_mean, ref_scale = ref_statistics(array)
    np.testing.assert_allclose(comp_mean, ref_mean.astype(float), rtol=1e-12)
    np.testing.assert_allclose(comp_scale, ref_scale.astype(float), rtol=1e-11)


def test_a_large_mean_does_not_eat_the_variance(tmp_path):
    array = (1e7 + np.random.default_rng(0).integers(0, 3, (50000, 1))).astype(np.float32)
    ref_mean, ref_scale = ref_statistics(array)
    comp_mean, comp_scale = statistics(as_records(tmp_path, array))
    np.testing.assert_allclose(comp_mean, ref_mean.astype(float), rtol=1e-14)
    np.testing.assert_allclose(comp_scale, ref_scale.astype(float), rtol=1e-9)


def test_constant_channels_have_scale_one(tmp_path):
    array = np.empty((70001, 4), np.float32)
    array[:] = [0.1, 3e38, 0, -7e-41]  # the sum of the first is not exact
    mean, scale = statistics(as_records(tmp_path, array))
    assert scale == [1.0] * 4
    np.testing.assert_allclose(mean, array[0].astype(float), rtol=1e-12)


def test_huge_and_tiny_spreads_stay_finite_in_float32(tmp_path):
    array = np.array([[3e38, 1e-45], [-3e38, 0]], np.float32)
    mean, scale = statistics(as_records(tmp_path, array))
    assert np.isfinite(np.array([mean, scale], np.float32)).all()
    assert scale[1] == 1.0


def test_one_pair_for_the_whole_set(tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (40, 5, 5, 3)).astype(np.uint8)
    mean, scale = statistics(as_records(tmp_path, array), per="set")
    np.testing.assert_allclose(mean, [array.mean()] * 3)
    np.testing.assert_allclose(scale, [1 / array.std()] * 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path, value):
    array = np.zeros((40000, 3), np.float32)
    array[30001, 2] = value
    with pytest.raises(DataError, match=r"record 30001 .* at value 2"):
        statistics(as_records(tmp_path, array))


def test_a_subset_and_an_empty_one(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(12, 2)
    records = as_records(tmp_path, array)
    mean, _ = statistics(records.pick([1, 5]))
    assert mean == [6.0, 7.0]
    with pytest.raises(DataError, match="no samples"):
        statistics(records.pick([]))


def test_an_unknown_word(tmp_path):
    with pytest.raises(UsageError, match="'channel' or 'set'"):
        statistics(as_records(tmp_path, np.zeros((2, 2), np.float32)), per="pixel")
