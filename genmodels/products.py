"""Products of matrices, by the faster of torch's libraries."""

import torch
from torch import Tensor

_LINEAR = "_linear_pointwise"  # not there where torch was built without oneDNN
_LEAST = 1 << 22  # multiplications, from which oneDNN's start costs less than its loops gain


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return ab  # (row, inner), (inner, column) -> (row, column).

    Of float32 on a CPU torch's `mm` asks MKL, which on some processors leaves half their registers unused;
    oneDNN, which torch asks for convolutions and bfloat16, uses all of them, and rounds no more.
    """
    size = a.shape[0] * a.shape[1] * b.shape[1]
    one_dnn = a.dtype == torch.float32 and a.device.type == "cpu" and hasattr(torch.ops.mkldnn, _LINEAR)
    if one_dnn and size >= _LEAST:
        found: Tensor = getattr(torch.ops.mkldnn, _LINEAR)(a, b.T, None, "none", [], "")
        return found
    return a @ b

