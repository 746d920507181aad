"""Data sets larger than memory: fixed-size records on disk, read into a buffer that the caller planned.

Nothing imported here needs NumPy, so a device that finds its data set converted reads it without. Converting
(`edgerev.data.convert`, imported when it is needed) and `edgerev.data.standardise` do need it.
"""

from edgerev.data.dataset import Dataset, open_dataset
from edgerev.data.order import Permutation
from edgerev.data.records import Records

__all__ = ["Dataset", "Permutation", "Records", "open_dataset"]
