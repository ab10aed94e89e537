"""Slow and obvious similarity measures: whole matrices, explicit loops, no shared code with the package."""

import itertools

import numpy as np


def centring(n):
    return np.eye(n) - np.ones((n, n)) / n


def linear_gram(x):
    return np.array([[float(np.dot(a, b)) for b in x] for a in x])


def rbf_gram(x, bandwidth=1.0):
    n = len(x)
    squares = np.array([[np.sum((a - b) ** 2) for b in x] for a in x])
    median = np.median([squares[i, j] for i in range(n) for j in range(i)])
    return np.exp(-squares / (2 * bandwidth**2 * median))


def hsic(k, gram):
    h = centring(len(k))
    return np.trace(h @ k @ h @ h @ gram @ h)


def unbiased_hsic(k, gram):
    """HSIC_1 of Song et al. (2012): sums over tuples of different images."""
    n = len(k)
    three = sum(
        k[i, j] * gram[i, q] for i in range(n) for j in range(n) for q in range(n) if i != j and i != q and j != q
    )
    two = sum(k[i, j] * gram[i, j] for i in range(n) for j in range(n) if i != j)
    four = sum(
        k[i, j] * gram[q, r]
        for i in range(n)
        for j in range(n)
        for q in range(n)
        for r in range(n)
        if len({i, j, q, r}) == 4
    )
    return two / (n * (n - 1)) - 2 * three / (n * (n - 1) * (n - 2)) + four / (n * (n - 1) * (n - 2) * (n - 3))


def cka(k, gram, estimator=hsic):
    return estimator(k, gram) / np.sqrt(estimator(k, k) * estimator(gram, gram))


def centred(x):
    return x - x.mean(axis=0)


def canonical_correlations(x, y):
    """From orthonormal bases of the centred columns, by singular values."""
    return np.linalg.svd(np.linalg.qr(centred(x))[0].T @ np.linalg.qr(centred(y))[0], compute_uv=False)


def svcca(x, y, variance):
    kept = []
    for side in (x, y):
        u, s, _ = np.linalg.svd(centred(side), full_matrices=False)
        share = np.cumsum(s**2) / np.sum(s**2)
        count = next(i + 1 for i in range(len(s)) if share[i] >= variance)
        kept.append(u[:, :count] * s[:count])
    return np.mean(canonical_correlations(*kept))


def pwcca(x, y):
    """Morcos et al. (2018): canonical variables of X weighted by their projections on X's features."""
    qx, qy = np.linalg.qr(centred(x))[0], np.linalg.qr(centred(y))[0]
    left, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    variables = qx @ left
    weights = [sum(abs(float(h @ column)) for column in centred(x).T) for h in variables.T]
    return np.dot(weights, rho) / np.sum(weights)


def regression_r2(x, y):
    design = np.hstack([x, np.ones((len(x), 1))])
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - np.sum(rest**2) / np.sum(centred(y) ** 2)


def ranks(values):
    """Ranks from 1, equal values share the mean of theirs."""
    return np.array([np.sum(values < v) + (np.sum(values == v) + 1) / 2 for v in values])


def rsa(x, y, rank=True):
    def distances(rows):
        return np.array(
            [1 - np.corrcoef(rows[i], rows[j])[0, 1] for i in range(len(rows)) for j in range(i + 1, len(rows))]
        )

    a, b = distances(x), distances(y)
    return np.corrcoef(*((ranks(a), ranks(b)) if rank else (a, b)))[0, 1]


def mutual_neighbours(x, y, k):
    def nearest(rows, i):
        others = sorted((np.sum((rows[i] - rows[j]) ** 2), j) for j in range(len(rows)) if j != i)
        return {j for _, j in others[:k]}

    return np.mean([len(nearest(x, i) & nearest(y, i)) / k for i in range(len(x))])


def correlation_table(x, y):
    return np.array([[np.corrcoef(b, a)[0, 1] for a in x.T] for b in y.T])


def best_permutation(table):
    """The one-to-one matching with the largest sum, by trying all."""
    rows = range(len(table))
    return max(
        itertools.permutations(range(table.shape[1]), len(table)), key=lambda p: sum(table[i, p[i]] for i in rows)
    )


def least_squares(x, y):
    """(W [out, in], b) by the pseudo-inverse of [X, 1], as the original computes it."""
    solution = np.linalg.pinv(np.hstack([x, np.ones((len(x), 1))])) @ y
    return solution[:-1].T, solution[-1]


def reduced_rank(x, y, rank):
    """The original's ls_sum."""
    full = np.linalg.pinv(x) @ y
    right = np.linalg.svd(x @ full, full_matrices=False)[2][:rank].T
    return (full @ right @ right.T).T
