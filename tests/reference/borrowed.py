"""Slow, obvious NumPy oracles of induction: bits as a matrix of 0 and 1, one image per row."""

import numpy as np


def hamming(bits, first, second):
    """Images on which two neurons (columns of bits [M, N]) differ."""
    return sum(int(a != b) for a, b in zip(bits[:, first], bits[:, second], strict=True))


def farthest_points(bits, count, first):
    """Farthest-point sampling by the book: the neuron whose smallest distance to the chosen ones is largest, first at ties."""
    chosen = [first]
    size = bits.shape[1]
    while len(chosen) < count:
        smallest = [min(hamming(bits, n, p) for p in chosen) for n in range(size)]
        if max(smallest) == 0:
            break
        chosen.append(smallest.index(max(smallest)))
    return chosen


def codebook(prototypes, *, polarity, constants):
    """{code: bits [M]} for prototype bits [M, K]."""
    images, count = prototypes.shape
    book = {k: prototypes[:, k] for k in range(count)}
    if polarity:
        book |= {count + k: 1 - prototypes[:, k] for k in range(count)}
    if constants:
        book |= {2 * count: np.ones(images, int), 2 * count + 1: np.zeros(images, int)}
    return book


def best_codes(own, weights, prototypes, *, polarity, constants):
    """The code with the smallest weighted sum of wrong bits for every column of own [M, N]; at ties constants go first."""
    book = codebook(prototypes, polarity=polarity, constants=constants)
    codes = []
    for column, weight in zip(own.T, weights.T, strict=True):
        costs = {code: float(np.sum(weight[column != bits])) for code, bits in book.items()}
        codes.append(min(costs, key=lambda code: (costs[code], code < 2 * prototypes.shape[1], code)))
    return np.array(codes)


def gate(prototypes, codes):
    """Borrowed bits [M, N] of codes [N]."""
    book = codebook(prototypes, polarity=True, constants=True)
    return np.stack([book[int(code)] for code in codes], axis=1)
