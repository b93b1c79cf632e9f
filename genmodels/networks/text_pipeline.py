"""Latent diffusion as a Stable Diffusion pipeline of diffusers, for whoever has not got this package."""

import copy
from typing import Any

from torch import nn

from genmodels.networks import schedulers
from genmodels.networks.latent_space import LatentSpace
from genmodels.networks.text_denoiser import TextDenoiser
from genmodels.networks.text_encoder import TextEncoder

_PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction"}
_METHOD = "dpm"  # of the schedulers the one that needs the fewest steps
_SIDE = 8  # of whose multiples StableDiffusionPipeline makes pictures


def text_pipeline_of(space: LatentSpace, prior: TextDenoiser, encoder: TextEncoder) -> Any | None:
    """Return diffusers' StableDiffusionPipeline with float32 copies of all networks, or None.

    With a generator for each picture and the same number of steps its pictures are those to look at that
    `LatentDiffusion.paint` returns with the method dpm. There is none for prompts that are not padded, as
    nothing tells that pipeline's U-Net which tokens are there; for black and white pixels; and for sides that
    are no multiples of 8 or have to be padded.
    """
    unet: Any = prior.unet
    fits = not any((*space.padding.margins, *unet.padding.margins, space.height % _SIDE, space.width % _SIDE))
    if not fits or not encoder.padded or space.pixels.levels == 2:
        return None
    from diffusers import StableDiffusionPipeline

    tokenizer, reader = encoder.parts()
    build: Any = StableDiffusionPipeline
    kind = _PREDICTION_TYPES[prior.prediction]
    return build(
        vae=_locations(space),
        text_encoder=_of_masks(reader),
        tokenizer=_of_length(tokenizer, encoder.most),
        unet=copy.deepcopy(unet.net).float().cpu().eval(),
        scheduler=schedulers.scheduler(_METHOD, prior.noise, kind, prior.reach),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _locations(space: LatentSpace) -> Any:
    """Return the autoencoder with a decoder that puts out pictures from −1 to 1 in place of distributions.

    With m the location of a pixel K(m + 1)/2 − ½ is its level, and 2/(K − 1) of that less 1 is K m/(K − 1).
    """
    from diffusers import AutoencoderKL

    build: Any = AutoencoderKL
    config = {name: value for name, value in space.net.config.items() if not name.startswith("_")}
    given = {"out_channels": space.depth, "scaling_factor": float(space.scale)}
    net: Any = build(**(config | given))
    tensors = {name: tensor.float().cpu() for name, tensor in space.net.state_dict().items()}
    stretch = space.pixels.levels / (space.pixels.levels - 1)
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        tensors[name] = stretch * tensors[name][: space.depth]
    net.load_state_dict(tensors)
    return net.eval()


def _of_masks(reader: nn.Module) -> Any:
    """Return the encoder with word to the pipeline that it does not read padding."""
    copied: Any = copy.deepcopy(reader)
    copied.config.use_attention_mask = True
    return copied.float().cpu().eval()


def _of_length(tokenizer: Any, most: int) -> Any:
    copied = copy.deepcopy(tokenizer)
    copied.model_max_length = most
    return copied
