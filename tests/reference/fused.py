"""A bottleneck from its folded weights and two masks, loop by loop: section 5.1 of spec fusion."""

import numpy as np


def fused_bottleneck(x, first, depthwise, last, biases, masks, *, stride, before, out_shape):
    """y [H', W', C_out] for x [H, W, C_in].

    Args:
        first, depthwise, last: W1 a1 [C_in, C_mid], D a2 [K, K, C_mid], W2 a3 [C_mid, C_out], dense.
        biases: b1, b2, b3.
        masks: m1 [H, W, C_mid], m2 [H', W', C_mid].
        before: zeros above and left of the image.
    """
    (b1, b2, b3), (m1, m2) = biases, masks
    y = np.zeros((*out_shape, last.shape[1]))
    for p in np.ndindex(*out_shape):
        total = b3 + (b2[:, None] * last)[m2[p]].sum(axis=0)
        for r in np.ndindex(*depthwise.shape[:2]):
            q = tuple(p[i] * stride + r[i] - before for i in (0, 1))
            if not (0 <= q[0] < x.shape[0] and 0 <= q[1] < x.shape[1]):
                continue
            live = m1[q] & m2[p]
            weights = (first[:, live] * depthwise[r][live]) @ last[live]
            total = total + x[q] @ weights + ((b1 * depthwise[r])[live, None] * last[live]).sum(axis=0)
        y[p] = total
    return y
