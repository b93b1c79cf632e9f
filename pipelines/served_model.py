"""A trained model as MLflow loads and serves it: seeds in, pictures out; or pixels in, likelihoods out."""

from typing import Any

import mlflow.pyfunc
from mlflow.models import set_model


class Pictures(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """predict(DataFrame) by its column.

    `seed`, whole numbers -> a picture for each, pixels in [0, 1]  # (seed, site). Of models that read, with
    `prompt` beside it -> what a row says, by the parameters negative, guidance, steps and method, within the
    limits of the page. `pixels`, lists of levels 0 … K − 1 -> a DataFrame with the number of each image,
    "value" in nats, its "stderr" and "kind". A number that is not determined is NaN, and "reason" says why.
    """

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as the artifact "model"."""
        from genmodels.artifacts import load_model
        from genmodels.prompts import encoder_of

        self.folder = context.artifacts["model"]
        self.model = load_model(self.folder)
        reads = getattr(self.model, "text_encoder", None) is not None
        self.encoder = encoder_of(self.model) if reads else None

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints
        """Return a picture for each seed, the same one for the same seed, or a score for each image."""
        from genmodels.errors import InputError

        columns = [name for name in ("seed", "pixels") if name in model_input]
        given = [name for name in columns if model_input[name].notna().all()]
        if len(given) != 1 or len(model_input) == 0:
            raise InputError("give one column: seed, a number each, or pixels, a list of levels each")
        if given == ["pixels"]:
            return self._scored(model_input["pixels"])
        if "prompt" not in model_input or model_input["prompt"].isna().all():
            return self._drawn(self._seeds(model_input["seed"]))
        return self._painted(model_input["prompt"], self._seeds(model_input["seed"]), params or {})

    def _seeds(self, column: Any) -> list[int]:
        from genmodels.web import limits

        return [limits.whole("seed", seed, 0, limits.MOST_SEED) for seed in column.tolist()]

    def _drawn(self, seeds: Any) -> Any:
        import numpy as np

        from genmodels.generate import generate
        from genmodels.placement.local import LocalPlacement
        from genmodels.streams import Key

        here = LocalPlacement()
        pictures = [generate(self.model, 1, Key(seed, "serve"), here) for seed in seeds]
        return np.concatenate([picture.shown()[0] for picture in pictures])

    def _painted(self, prompts: Any, seeds: Any, given: dict[str, Any]) -> Any:
        import tempfile
        from pathlib import Path
        from typing import get_args

        import numpy as np

        from genmodels.errors import InputError
        from genmodels.networks.denoiser import Method
        from genmodels.networks.schedulers import SCHEDULERS
        from genmodels.prompts import paint
        from genmodels.streams import Key
        from genmodels.web import limits

        if self.encoder is None:
            raise InputError(f"prompt: the model is a {type(self.model).__name__}, which reads none")
        prompts = [limits.prompt("prompt", prompt) for prompt in prompts]
        methods = list(dict.fromkeys([*get_args(Method), *SCHEDULERS]))
        checks = {
            "negative": ("negative", lambda it: limits.prompt("negative", it)),
            "guidance": ("guidance", lambda it: limits.number("guidance", it, 0.0, limits.MOST_GUIDANCE)),
            "steps": ("n_steps", lambda it: limits.whole("steps", it, 1, limits.MOST_STEPS)),
            "method": ("method", lambda it: limits.one_of("method", it, methods)),
        }
        known = {checks[name][0]: checks[name][1](value) for name, value in given.items() if name in checks}
        options: dict[str, Any] = known | {"encoder": self.encoder}
        painted = []
        with tempfile.TemporaryDirectory() as cache:
            for prompt, seed in zip(prompts, seeds, strict=True):
                key = Key(seed, "sample")  # the command's, for the command's pictures
                painted.append(paint(self.model, [prompt], key, Path(cache), **options)[1])
        return np.concatenate(painted)

    def _scored(self, pixels: Any) -> Any:
        import math

        import numpy as np
        import pandas
        import torch

        from genmodels.artifacts import read_log_z
        from genmodels.errors import InputError
        from genmodels.estimators import likelihood
        from genmodels.estimators.route import Effort
        from genmodels.protocols import levels_of
        from genmodels.streams import Key

        levels, n_sites = levels_of(self.model), getattr(self.model, "n_visible", self.model.n_sites)
        try:
            v = np.array([np.asarray(each, dtype=np.float64) for each in pixels])
        except (TypeError, ValueError, OverflowError):
            v = np.empty(0)
        if v.ndim != 2 or v.shape[1] != n_sites or not np.isin(v, np.arange(levels)).all():
            raise InputError(f"pixels: expected {n_sites} levels from 0 to {levels - 1} for each image")
        log_z = likelihood.with_enumeration(self.model, read_log_z(self.folder))
        images = torch.from_numpy(v).float()
        effort = Effort(posterior_images=0)
        route = likelihood.routes(self.model, images, Key(0, "serve"), log_z, effort)[0]
        known = route.values is not None
        variances = np.zeros(len(v)) if route.variances is None else route.variances
        return pandas.DataFrame(
            {
                "value": route.values if known else np.full(len(v), math.nan),
                "stderr": np.sqrt(variances + route.shared**2) if known else np.full(len(v), math.nan),
                "kind": route.kind,
                "reason": route.reason,
            }
        )


set_model(Pictures())
