"""Which kernel to use when nobody says."""

from typing import Any

from genmodels import registry
from genmodels.errors import InputError
from genmodels.kernels import KERNELS
from genmodels.protocols import HasBlocks, HasCouplings, HasEnergy, Kernel

_MANY_BLOCKS = 16  # above which blocks are so small that compiled single flips are faster


def kernel_for(model: Any) -> Kernel[Any]:
    """Return the kernel that suits a model: by blocks, by compiled single flips, or along the gradient.

    Raises:
        InputError: the model has no energy.
    """
    if not isinstance(model, HasEnergy):
        raise InputError(f"{type(model).__name__} has no energy: Markov chains cannot sample it")
    if isinstance(model, HasBlocks) and len(model.blocks) <= _MANY_BLOCKS:
        name = "block_gibbs"
    elif isinstance(model, HasCouplings):
        name = "heat_bath"
    else:
        name = "gibbs_with_gradients" if getattr(model, "domain", "spin") == "spin" else "mala"
    kernel: Kernel[Any] = registry.build(KERNELS, name, {})
    return kernel
