"""Images in: split, binarised, counted, shown."""

from genmodels.artifacts import new_file, new_folder, write_json
from genmodels.data import images, pictures
from genmodels.data.prepare import prepare_dataset
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/prepare: images/, preview.png and statistics.json."""
    data, out = stage.params.data, stage.out / "prepare"
    prepared, target = prepare_dataset(**data.model_dump(), seed=stage.params.seed)
    with new_folder(out / "images") as folder:
        images.save(folder, prepared, target)
    with new_file(out / "preview.png") as path:
        pictures.preview(prepared, path)
    write_json(out / "statistics.json", pictures.statistics(prepared, target))
    stage.run.picture(out / "preview.png")
    stage.run.file(out / "statistics.json")


if __name__ == "__main__":
    main("prepare", work)
