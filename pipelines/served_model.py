"""A trained model as MLflow loads and serves it: a column of seeds in, one picture for each seed out."""

from typing import Any

import mlflow.pyfunc
from mlflow.models import set_model


class Pictures(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """predict(DataFrame with an integer column `seed`) -> pixels in [0, 1]  # (seed, site)."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as the artifact "model"."""
        from genmodels.artifacts import load_model

        self.model = load_model(context.artifacts["model"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints
        """Return a picture for each seed, the same one for the same seed."""
        import numpy as np

        from genmodels.generate import generate
        from genmodels.placement.local import LocalPlacement
        from genmodels.streams import Key

        here = LocalPlacement()
        pictures = [generate(self.model, 1, Key(int(seed), "serve"), here) for seed in model_input["seed"]]
        return np.concatenate([picture.shown()[0] for picture in pictures])


set_model(Pictures())
