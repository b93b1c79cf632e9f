"""The neural networks that models are made of; of the U-Nets by name."""

UNETS = {
    "diffusers": "genmodels.networks.unet:UNet",
    "compact": "genmodels.networks.compact_unet:CompactUNet",
}
