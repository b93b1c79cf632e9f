"""Couplings in, drawn or from files: written down, and solved exactly where that is possible."""

import dataclasses
from pathlib import Path
from typing import Any

from genmodels.artifacts import new_folder, write_json
from genmodels.couplings import Couplings
from genmodels.data import coupling_files, lattices
from genmodels.data.coo import write_coo
from genmodels.data.sources import data_root
from genmodels.estimate import Estimate, of_scalar
from genmodels.estimators import enumeration, ising_2d
from genmodels.models.ising import Ising
from genmodels.streams import Key
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/prepare_couplings: couplings/<instance>.coo, and instances.json, what is known."""
    out, known = stage.out / "prepare_couplings", {}
    with new_folder(out / "couplings") as folder:
        for name, settings in stage.params.prepare_couplings.items():
            couplings = made(settings, Key(stage.params.seed, f"prepare_couplings/{name}"))
            # The format holds no offset.
            write_coo(folder / f"{name}.coo", dataclasses.replace(couplings, offset=0.0))
            known[name] = {
                "kind": settings.kind,
                "beta_max": settings.beta_max,
                "n_sites": couplings.n_sites,
                "n_edges": len(couplings.J),
                "offset": couplings.offset,
                "exact": {key: value.to_dict() for key, value in exact(settings, couplings).items()},
            }
    write_json(out / "instances.json", known)
    stage.run.file(out / "instances.json")


def made(settings: Any, key: Key) -> Couplings:
    """Return the couplings that the settings of an instance describe."""
    match settings.kind:
        case "plus_minus":
            return lattices.edwards_anderson(settings.size, key)
        case "gaussian":
            return lattices.edwards_anderson(settings.size, key, gaussian=True)
        case "ferromagnet":
            return lattices.ferromagnet(settings.size)
        case "sherrington_kirkpatrick":
            return lattices.sherrington_kirkpatrick(settings.size[0], key)
    given = Path(settings.path)
    return coupling_files.read(given if given.exists() else data_root() / given).couplings


def exact(settings: Any, couplings: Couplings) -> dict[str, Estimate]:
    """Return "log_z" at the last β and "best_energy", nats: of a ferromagnet, and of at most 20 spins."""
    if couplings.n_sites <= enumeration.MAX_SITES:
        lowest = min(couplings.energy(x.numpy()).min() for x in enumeration.states(couplings.n_sites))
        log_z = enumeration.log_z_of_energy(Ising.of(couplings), settings.beta_max)
        return {"log_z": log_z, "best_energy": _exact(float(lowest))}
    if settings.kind != "ferromagnet":
        return {}
    known = {"best_energy": _exact(-float(couplings.J.sum()))}
    if len(settings.size) == 2:
        value, _ = ising_2d.log_z(*settings.size, settings.beta_max)
        known["log_z"] = of_scalar(value, stderr=0.0, kind="exact", unit="nats", n=1, method="Kaufman 1949")
    return known


def _exact(energy: float) -> Estimate:
    return of_scalar(energy, stderr=0.0, kind="exact", unit="nats at β = 1", n=1, method="ground state")


if __name__ == "__main__":
    main("prepare_couplings", work)
