"""One model on held-out images of its own levels; and its divergence from the truth where that is known."""

from typing import Any

import numpy as np
import torch

from genmodels.artifacts import load_model, new_file, read_log_z, write_json
from genmodels.data import images
from genmodels.data.target import Target
from genmodels.estimate import Estimate, undetermined
from genmodels.estimators import enumeration, likelihood
from genmodels.estimators.likelihood import Route
from genmodels.protocols import levels_of
from genmodels.streams import Key
from pipelines import progress
from pipelines.stage import Stage, main

DIVERGENCE_KIND = {"exact": "exact", "lower": "upper", "estimate": "estimate"}


def work(stage: Stage) -> None:
    """Write out/<pipeline>/evaluate: <model>.json, rows of Estimates, and <model>.npz, nats of each image.

    The likelihood is in nats per binary image, or in bits per dimension of a grey one.
    """
    out = stage.out / "evaluate"
    settings = stage.params.evaluate
    prepared = images.load(stage.out / "prepare" / "images")
    target = images.load_target(stage.out / "prepare" / "images")
    model = load_model(stage.model_folder())
    log_z = likelihood.with_enumeration(model, read_log_z(stage.model_folder()))
    effort = likelihood.Effort(**settings.model_dump(exclude={"images"}))
    key = Key(stage.params.seed, f"evaluate/{stage.model}")
    levels = levels_of(model)
    v = torch.from_numpy(images.of_levels(prepared, "test", levels)[: settings.images]).float()
    with progress.bar(stage.name) as report:
        routes = likelihood.routes(model, v, key.child("test"), log_z, effort, report)
    rows = [_row(route.quantity, route.name, route.mean()) for route in routes]
    rows += [_row("log_z", name, estimate) for name, estimate in log_z.items()]
    if target is not None and levels == 2:
        with progress.bar(f"{stage.name}, known distribution") as report:
            rows += _against_truth(model, target, key.child("target"), log_z, effort, report)
    with new_file(out / f"{stage.model}.npz") as path:
        np.savez(
            path,
            **{route.name or "log_likelihood": route.values for route in routes if route.values is not None},
        )
    data = images.describe(prepared, "binary" if levels == 2 else "grey") | {"split": "test"}
    write_json(out / f"{stage.model}.json", {"model": stage.model, "data": data, "rows": rows})
    for row in rows:
        if row["value"] is not None:
            errors = {f"{row['name']}/stderr": row["stderr"]} if row["stderr"] is not None else {}
            stage.run.metrics({row["name"]: row["value"]} | errors)
    stage.run.file(out / f"{stage.model}.json")


def _row(quantity: str, route: str, estimate: Estimate) -> dict[str, Any]:
    return {"name": f"{quantity}.{route}" if route else quantity} | estimate.to_dict()


def _against_truth(
    model: Any,
    target: Target,
    key: Key,
    log_z: dict[str, Estimate],
    effort: likelihood.Effort,
    report: likelihood.Report,
) -> list[dict[str, Any]]:
    """Return D(P‖q) by every route, and by the first q(supp P), or D(q‖P) where P has full support."""
    states = torch.from_numpy(target.states).float()
    log_p = torch.from_numpy(target.log_p)
    routes = likelihood.routes(model, states, key, log_z, effort, report)
    rows = [_row("kl", route.name, _divergence(log_p, route)) for route in routes]
    first = routes[0]
    if first.values is not None:
        log_q = torch.from_numpy(first.values)
        if not target.full_support and first.variances is not None:
            reason = "a sum of exponentials of noisy bounds would be biased"
            n = len(target.states)
            refusal = undetermined(reason, unit="probability", n=n, method=first.method)
            rows.append(_row("mass_on_support", "", refusal))
        elif not target.full_support:
            error = first.shared * float(np.exp(first.values).sum())
            mass = enumeration.mass_on_support(log_q, kind=first.kind, stderr=error, method=first.method)
            rows.append(_row("mass_on_support", "", mass))
        elif first.kind == "exact":
            rows.append(_row("reverse_kl", "", enumeration.divergence(log_q, log_p, method=first.method)))
    return rows


def _divergence(log_p: torch.Tensor, route: Route) -> Estimate:
    if route.values is None:
        return route.mean()
    return enumeration.divergence(
        log_p,
        torch.from_numpy(route.values),
        kind=DIVERGENCE_KIND[route.kind],
        stderr=route.error(log_p.exp().numpy()),
        method=route.method,
    )


if __name__ == "__main__":
    main("evaluate", work)
