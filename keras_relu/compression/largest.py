"""The k largest of many values as a mask, on the device and without sorting: what a pruning step is made of."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["largest"]

# The 31 bits of a float32 that is not negative, from the highest: they order such floats as the integers they spell.
_DIGITS = (11, 10, 10)


def largest(magnitudes: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Exactly `kept` of each row, whatever values are equal: of those that equal the threshold, the first.

    The threshold is found digit by digit in three histograms, each of them one pass over the values.

    Args:
        magnitudes: float32 [rows, size], none negative.
        kept: int32 scalar in [1, size].

    Returns:
        (bool mask [rows, size], float32 threshold [rows, 1], the smallest value that is kept).
    """
    bits = tf.bitcast(magnitudes, tf.int32)
    prefix, wanted, there = _digit(bits, tf.zeros([], tf.int32), tf.fill([bits.shape[0], 1], kept), 0)
    for place in range(1, len(_DIGITS)):
        prefix, wanted, there = _digit(bits, prefix, wanted, place)

    def first_of_equals() -> tf.Tensor:
        equal = tf.equal(bits, prefix)
        return tf.logical_or(bits > prefix, equal & (tf.cumsum(tf.cast(equal, tf.int32), axis=1) <= wanted))

    mask = tf.cond(tf.reduce_all(tf.equal(wanted, there)), lambda: bits >= prefix, first_of_equals)
    return mask, tf.bitcast(prefix, tf.float32)


def _digit(bits: tf.Tensor, prefix: tf.Tensor, wanted: tf.Tensor, place: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One more digit of the value sought, the `wanted`-th largest of those that begin with `prefix`.

    Returns:
        The longer prefix, which of those that begin with it is sought, and how many do; each int32 [rows, 1].
    """
    bins = 1 << _DIGITS[place]
    # Values that begin otherwise keep a bit above the digit, and a histogram leaves out what is beyond its bins.
    head = tf.bitwise.right_shift(bits, sum(_DIGITS[place + 1 :]))
    keys = tf.bitwise.bitwise_xor(head, prefix * bins)
    counts = tf.raw_ops.DenseBincount(input=keys, size=bins, weights=tf.zeros([0], tf.int32))
    from_above = tf.cumsum(counts, axis=1, reverse=True)
    digit = tf.reduce_sum(tf.cast(from_above >= wanted, tf.int32), axis=1, keepdims=True) - 1
    there = tf.gather(counts, digit, batch_dims=1)
    return prefix * bins + digit, wanted - tf.gather(from_above, digit, batch_dims=1) + there, there
