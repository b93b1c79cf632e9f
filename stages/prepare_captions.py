"""Pictures with captions in: split, some captions held out, counted, shown."""

from genmodels.artifacts import new_file, new_folder, write_json
from genmodels.data import captions, pictures
from genmodels.data.prepare_captions import prepare_captions
from pipelines.stage import Stage, main

_SHOWN = 96


def work(stage: Stage) -> None:
    """Write out/<pipeline>/prepare_captions: images/, preview.png and statistics.json."""
    params, out = stage.params, stage.out / "prepare_captions"
    prepared = prepare_captions(**params.prepare_captions.model_dump(), seed=params.seed)
    with new_folder(out / "images") as folder:
        captions.save(folder, prepared)
    with new_file(out / "preview.png") as path:
        shown = prepared.splits["train"].levels[:_SHOWN] / (prepared.levels - 1)
        pictures.grid(shown, prepared.shape, path, columns=16)
    write_json(out / "statistics.json", captions.statistics(prepared))
    stage.run.picture(out / "preview.png")
    stage.run.file(out / "statistics.json")


if __name__ == "__main__":
    main("prepare_captions", work)
