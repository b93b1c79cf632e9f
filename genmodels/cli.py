"""The `genmodels` command: the models and tables of a finished pipeline, in the terminal."""

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from genmodels import runs
from genmodels.errors import InputError

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Train, sample and compare generative models of images.",
)  # fmt: skip
TABLE = Path("out/main/report/table.json")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["GENMODELS_DEBUG"] = "1"


@app.command()
def evaluate(
    model_dir: Annotated[Path, typer.Argument(help="A model's folder, such as out/main/train/vae.")],
    data: Annotated[
        str, typer.Option(help="A data set's name, a folder of images, or out/main/prepare/images.")
    ],
    seed: Annotated[int, typer.Option(help="Of the split, the binarisation and the estimator.")] = 2026,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Print the likelihood of held-out images: nats per binary image, or bits per dimension of a grey one."""
    import torch

    from genmodels.artifacts import load_model, read_config, read_log_z
    from genmodels.estimators import likelihood
    from genmodels.estimators.route import Effort
    from genmodels.held_out import held_out
    from genmodels.protocols import levels_of
    from genmodels.streams import Key

    model, config = load_model(model_dir), read_config(model_dir)
    v = torch.from_numpy(held_out(data, model_dir, config["data"], levels_of(model), seed)).float()
    log_z = likelihood.with_enumeration(model, read_log_z(model_dir))
    effort = Effort(posterior_images=0)  # the first route is what is printed
    estimate = likelihood.routes(model, v, Key(seed, "evaluate"), log_z, effort)[0].mean()
    print(json.dumps(estimate.to_dict(), sort_keys=True) if as_json else estimate)


@app.command()
def sample(
    model_dir: Annotated[Path, typer.Argument(help="A model's folder, such as out/main/train/vae.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many pictures.")] = 64,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same one for the same pictures; a new one if left out.")
    ] = None,
    method: Annotated[
        Literal["ancestral", "ddim", "dpm", "unipc", "ode"] | None,
        typer.Option(help="Of diffusion models; ancestral if left out, dpm for prompts."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the method.")] = None,
    label: Annotated[int | None, typer.Option(help="A class, of diffusion models that know classes.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What to show, of models that read; empty: anything.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What not to show, of models that read.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Weight of the class or prompt: 1 as learnt, above it more of it; 3 for prompts."),
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="Of VAEs: below 1 typical pictures, above it unusual ones.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers for models that run chains; 0: this process.")
    ] = None,
) -> None:
    """Draw pictures from a model, the same ones for the same seed."""
    from genmodels.artifacts import load_model, new_file, read_config
    from genmodels.data import pictures
    from genmodels.generate import generate
    from genmodels.illustrate import illustrate
    from genmodels.placement.choose import placement
    from genmodels.progress_bar import progress_bar
    from genmodels.streams import Key
    from genmodels.ways import way

    _require_png(out)
    model, config = load_model(model_dir), read_config(model_dir)
    given = {
        "method": method, "steps": steps, "label": label, "guidance": guidance, "radius": radius,
        "prompt": prompt, "negative": negative,
    }  # fmt: skip
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    seed = secrets.randbits(32) if seed is None else seed
    if _is_asked(model, options):
        asked = options | {"prompt": prompt or ""}
        shown = illustrate(model, n=n, key=Key(seed, "sample"), **asked).shown()[1:]
    else:
        way(model, **options)  # what is wrong with them is said before a Ray starts
        with placement(0, workers) as place, progress_bar("pictures") as progress:
            shown = generate(model, n, Key(seed, "sample"), place, progress, **options).shown()
    with new_file(out) as path:
        pictures.panels(shown, config["data"]["shape"], path)
    below = ", below them their pixels' means" if len(shown) > 1 else ""
    print(f"{out}: {n} pictures of seed {seed}{below}")


def _require_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: pictures are written as PNG, give a name that ends in .png")


def _is_asked(model: Any, options: dict[str, Any]) -> bool:
    """Return whether pictures are asked for in words, or of a model that reads.

    Raises:
        InputError: the model reads, and an option is for others.
    """
    from genmodels.protocols import ReadsPrompts

    if not isinstance(model, ReadsPrompts) or model.text_encoder is None:
        return "prompt" in options
    for name in ("label", "radius"):
        if name in options:
            raise InputError(
                f"{name}: the model is a {type(model).__name__}, its options are prompt, negative, guidance, "
                "steps, method"
            )
    return True


@app.command()
def explain(
    model_dir: Annotated[Path, typer.Argument(help="The folder of a model that reads prompts.")],
    prompt: Annotated[str, typer.Option(help="What to show.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    n: Annotated[int, typer.Option("-n", min=1, max=32, help="How many pictures.")] = 4,
    seed: Annotated[
        int | None, typer.Option(min=0, help="That of `sample` for its pictures; a new one if left out.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Weight of the prompt.")] = 3.0,
    steps: Annotated[int | None, typer.Option(help="Of the method.")] = None,
    method: Annotated[
        Literal["ancestral", "ddim", "dpm", "unipc", "ode"], typer.Option(help="From noise to the picture.")
    ] = "dpm",
) -> None:
    """Draw pictures of a prompt, and over each of them where every word of it was attended to."""
    from genmodels import explain as attention
    from genmodels.artifacts import load_model, read_config
    from genmodels.streams import Key

    _require_png(out)
    model, shape = load_model(model_dir), read_config(model_dir)["data"]["shape"]
    seed = secrets.randbits(32) if seed is None else seed
    found = attention.explain(model, prompt, n, Key(seed, "sample"), guidance, steps, method)
    attention.draw(found, shape, out)
    print(f"{out}: {n} pictures of seed {seed}, each with the maps of {', '.join(found.words)}")


@app.command()
def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(help="table.json files, pipelines' folders, MLflow runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Print the table of all models, best first, of one run or of several side by side."""
    from genmodels.table import show

    tables = {name: _table(name) for name in runs or [str(TABLE)]}
    if as_json:
        print(json.dumps(tables, sort_keys=True))
    else:
        show(tables)


def _table(name: str) -> dict[str, Any]:
    from genmodels.artifacts import read_json

    path = Path(name)
    written_by = ("report", "compare_samplers", "compare_rules", "report_captions")
    candidates = [path, path / "table.json"]
    candidates += [base / stage / "table.json" for base in (path, Path("out") / name) for stage in written_by]
    for candidate in candidates:
        if candidate.is_file():
            return _checked(read_json(candidate), str(candidate))
    if name == str(TABLE):
        raise InputError(f"{TABLE}: no table here yet; run 'make repro' or 'dvc repro' first")
    return _checked(_tracked(name), name)


def _checked(table: Any, name: str) -> dict[str, Any]:
    from genmodels.table import is_row

    if not (
        isinstance(table, dict)
        and isinstance(table.get("rows"), list)
        and all(map(is_row, table["rows"]))
        and _describes(table.get("data"), {row["name"].partition(".")[0] for row in table["rows"]})
    ):
        raise InputError(f"{name}: not a table of this program, as in out/main/report/table.json")
    return table


def _describes(data: Any, quantities: set[str]) -> bool:
    """Return whether a table says of which images its likelihoods are, if it has any."""
    if not {"log_likelihood", "bits_per_dimension"} & quantities:
        return True
    needed = {"name", "binarisation"} | ({"levels"} if "bits_per_dimension" in quantities else set())
    return isinstance(data, dict) and needed <= set(data)


def _tracked(name: str) -> Any:
    """Return the table that was kept with an MLflow run, given its id or its name."""
    if runs.server() is None and not runs.database().exists():
        raise InputError(f"{name}: no such file or folder, and no tracked runs here ({runs.database()})")
    from mlflow.exceptions import MlflowException

    try:
        return _downloaded(name)
    except MlflowException as error:
        raise InputError(f"{name}: MLflow has no table of it ({str(error).splitlines()[0]})") from error


def _downloaded(name: str) -> Any:
    import tempfile

    from mlflow.tracking import MlflowClient

    from genmodels.artifacts import read_json

    client = MlflowClient(runs.uri())
    experiment = client.get_experiment_by_name(runs.EXPERIMENT)
    found = [] if experiment is None else client.search_runs(
        [experiment.experiment_id], "tags.`genmodels.kind` = 'pipeline'", max_results=10000
    )  # fmt: skip
    ids = [run.info.run_id for run in found if name in (run.info.run_id, run.info.run_name)]
    if not ids:
        raise InputError(
            f"{name}: neither a table, a pipeline's folder, nor the id or name of a tracked pipeline run"
        )
    with tempfile.TemporaryDirectory() as folder:
        return read_json(Path(client.download_artifacts(ids[0], "report/table.json", folder)))


@app.command()
def anneal(
    file: Annotated[Path, typer.Argument(help="Couplings: .rud .mc .gset .txt (max-cut), .coo, .bqm .json.")],
    method: Annotated[
        Literal["annealing", "tempering", "exchange", "population", "jarzynski"],
        typer.Option(help="What moves the spins through temperature."),
    ],
    seed: Annotated[int | None, typer.Option(min=0, help="Of the run; a new one if not given.")] = None,
    beta_max: Annotated[
        float | None, typer.Option(help="The last inverse temperature; from the couplings if not given.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=4, help="Configurations that move at once.")] = None,
    sweeps: Annotated[int | None, typer.Option(min=1, help="Sweeps at each temperature.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which the best so far is the answer.")
    ] = None,
    format: Annotated[
        Literal["rudy", "coo", "bqm"] | None, typer.Option(help="Of the file, whatever its suffix.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Ray workers; 0: this process.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for states, curves and pictures.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A folder, or s3://…, from which a killed run goes on; with --seed.")
    ] = None,
    checkpoint_every: Annotated[float, typer.Option(min=0.0, help="Seconds between two checkpoints.")] = 60.0,
    shard: Annotated[
        int | None,
        typer.Option(min=1, help="Of a system too large for one worker: replicas or walkers in a task."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Find the ground state of given couplings, and log Z at every temperature on the way.

    The energy is E = −Σ_{i<j} J_ij x_i x_j − Σ_i h_i x_i with spins ±1; a max-cut file has J = −w.
    """
    from genmodels.anneal.run import Request, execute
    from genmodels.anneal.terminal import show

    request = Request(
        file, method, format, seed, beta_max, replicas, sweeps, time_limit, workers, out,
        checkpoint, checkpoint_every, shard,
    )  # fmt: skip
    answer = execute(request, show_progress=not as_json)
    if as_json:
        print(json.dumps(answer.entries(), sort_keys=True, allow_nan=False))
    else:
        show(answer)
    if answer.stopped == "interrupted":
        raise typer.Exit(130)


@app.command()
def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of models or of pipelines; all that are here if left out."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; 0 for any that is free.")] = 7860,
) -> None:
    """Serve the page on which prompts become pictures and models are compared, on loopback."""
    from genmodels.web.server import serve as serve_page

    serve_page(models or [], port)


def main() -> None:
    """Run the command; what the user got wrong ends in one line and exit status 2."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit(130)
    except typer.BadParameter as error:
        _fail(error.format_message().replace("\n", " "))
    except typer.TyperException as error:
        _fail(str(error).replace("\n", " "))
    except (InputError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("GENMODELS_DEBUG"):
            raise
        _fail(str(error) or "not enough memory")


def _fail(message: str) -> None:
    print(f"genmodels: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
