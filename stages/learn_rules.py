"""One learning rule of an RBM on known distributions: the exact divergence from them, while it learns."""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmodels import registry
from genmodels.artifacts import write_json
from genmodels.data.bars_and_stripes import bars_and_stripes
from genmodels.data.ising import ising
from genmodels.data.sources import Material, Request
from genmodels.data.target import Target
from genmodels.estimate import Estimate
from genmodels.estimators import enumeration
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Shuffled, fit
from genmodels.models import MODELS
from genmodels.streams import Key
from pipelines import progress
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/learn_rules: <rule>.json, for each distribution steps and divergences."""
    settings, name = stage.params.learn_rules, stage.model
    request = Request(size=settings.size, seed=stage.params.seed, **settings.ising.model_dump())
    curves = {}
    for source in (bars_and_stripes, ising):
        key = Key(stage.params.seed, f"learn_rules/{source.__name__}")
        curves[source.__name__] = _learn(stage, settings, name, source(request), key)
    path = stage.out / "learn_rules" / f"{name}.json"
    write_json(path, curves)
    stage.run.file(path)


def _learn(stage: Stage, settings: Any, name: str, material: Material, key: Key) -> list[dict[str, Any]]:
    """Return the points of a curve: the step, and D(P‖q) as an Estimate."""
    assert material.target is not None
    of = getattr(settings, name).model_dump()
    schedule = {} if of["schedule"] is None else {"n_steps": settings.steps, "schedule": of["schedule"]}
    learner = registry.build(LEARNERS, of["rule"], {k: of[k] for k in of if k != "schedule"} | schedule)
    sizes = {"n_visible": prod(material.shape), "n_hidden": settings.n_hidden}
    model = registry.build(MODELS, "rbm", sizes)
    x = 2.0 * torch.from_numpy(material.parts["train"].grey).float() - 1.0
    batches, points = Shuffled(x, settings.batch, key.child("order")), []
    wanted = set(np.geomspace(1, settings.steps, settings.points).round().astype(int).tolist())
    states = torch.cat(list(enumeration.states(x.shape[1]))).float()
    source = key.purpose.split("/")[1]
    with progress.bar(f"{stage.name} {source}") as report:
        for done in fit(model, learner, batches, key.child("train"), settings.steps):
            if done.step in wanted:
                kl = _divergence(model, material.target, states)
                points.append({"step": done.step} | kl.to_dict())
                known = {} if kl.value is None else {"kl": kl.value}  # infinite is no number
                stage.run.metrics({f"{source}/{it}": value for it, value in known.items()}, done.step)
                report(done.step, settings.steps, **known)
    return points


@torch.no_grad()
def _divergence(model: Any, target: Target, states: Tensor) -> Estimate:
    """Return D(P‖q), log Z summed over all `states`  # (state, site)."""
    log_z = model.log_unnormalised(states).double().logsumexp(0)
    x = 2.0 * torch.from_numpy(target.states).float() - 1.0
    log_q = model.log_unnormalised(x).double() - log_z
    return enumeration.divergence(torch.from_numpy(target.log_p), log_q, method="sum over all states")


if __name__ == "__main__":
    main("learn_rules", work)
