"""Metrics of continual learning, from the matrix R of accuracies: ``R[i][j]`` on experience j after learning i.

References
----------
Chaudhry et al. 2018, "Riemannian walk for incremental learning", eq. 3 (forgetting).
Lopez-Paz and Ranzato 2017, "Gradient episodic memory", eq. 2 and 3 (average accuracy, backward transfer).
"""

from __future__ import annotations

from collections.abc import Sequence


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Return the mean over earlier experiences of the best accuracy they ever had minus the last one; 0 for one."""
    last = matrix[-1]
    drops = [max(row[j] for row in matrix[j:-1]) - last[j] for j in range(len(matrix) - 1)]
    return sum(drops) / len(drops) if drops else 0.0


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """Return the mean over earlier experiences of the last accuracy minus the one right after learning; 0 for one."""
    changes = [matrix[-1][j] - matrix[j][j] for j in range(len(matrix) - 1)]
    return sum(changes) / len(changes) if changes else 0.0
