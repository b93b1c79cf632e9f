"""A denoiser as a pipeline of diffusers, for whoever has diffusers but not this package."""

import copy
from typing import TYPE_CHECKING, Any

from genmodels.networks import schedulers
from genmodels.networks.unet import UNet

if TYPE_CHECKING:
    from genmodels.networks.denoiser import Denoiser

_PREDICTION_TYPES = {"eps": "epsilon", "x": "sample", "v": "v_prediction"}


def pipeline_of(denoiser: "Denoiser") -> Any | None:
    """Return diffusers' DDIMPipeline with a float32 copy of the network and all noise levels, or None.

    There is none for networks other than UNet2DModel, for those with classes, for predictions other than eps,
    x and v, and for images that have to be padded: nothing in a pipeline's folder could say so. Its pictures
    run from 0 to 1, ½ + f/2 of the f inside. With a generator for each picture it draws what
    `schedulers.descend` does.
    """
    network, kind = denoiser.unet, _PREDICTION_TYPES.get(denoiser.prediction)
    if not isinstance(network, UNet) or kind is None or denoiser.n_classes or any(network.padding.margins):
        return None
    from diffusers import DDIMPipeline

    steps = schedulers.scheduler("ddim", denoiser.noise, kind, denoiser.reach)
    build: Any = DDIMPipeline
    return build(copy.deepcopy(network.net).float().cpu().eval(), steps)
