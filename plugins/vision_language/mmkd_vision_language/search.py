"""`mmkd search`: find pictures with words, using what a run has learnt."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd.errors import DataError, RecipeError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from mmkd import Dataset, Recipe, TrainingGraph

BATCH = 128


def search(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="What to look for, in words. Repeatable.")],
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures to search; the run's evaluation data unless given.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many pictures to show for a query.")] = 5,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Write a contact sheet.")] = None,
    image_value: Annotated[
        str | None, typer.Option(help="Value of the picture; port 'a' of the run's core.retrieval unless given.")
    ] = None,
    text_value: Annotated[str | None, typer.Option(help="Value of the text; port 'b' unless given.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")] = False,
) -> None:
    """Find pictures with words, using what a run has learnt."""
    import mmkd
    from mmkd.report.table import print_table

    model = mmkd.from_pretrained(run)
    recipe = recipe_of(run)
    image_value, text_value = values_of(recipe, str(run), image_value, text_value)
    dataset = pictures(recipe, str(run), images)
    candidates = embed(model, image_value, (dataset[i] for i in range(len(dataset))))
    asked = embed(model, text_value, ({"key": query, "text": query} for query in queries))
    if asked.shape[-1] != candidates.shape[-1]:
        raise RecipeError(
            f"'{image_value}' has width {candidates.shape[-1]} and '{text_value}' {asked.shape[-1]}", where=str(run),
            next="name two values of one space: --image-value up --text-value teacher.embedding",
        )  # fmt: skip
    scores, places = (asked @ candidates.T).topk(min(top, len(candidates)))
    found = [[dataset[i] for i in row] for row in places.tolist()]
    ranked = [
        {"query": query, "rank": rank, "score": round(score, 4), "key": sample["key"], "text": sample.get("text")}
        for query, row, samples in zip(queries, scores.tolist(), found, strict=True)
        for rank, (score, sample) in enumerate(zip(row, samples, strict=True), 1)
    ]
    if picture is not None:
        _write(picture, queries, found)
    if json:
        print(json_format.dumps(ranked, indent=2, ensure_ascii=False))
        return
    columns = ["query", "rank", "score", "picture", "caption"]
    print_table(columns, [[r["query"], str(r["rank"]), f"{r['score']:.3f}", r["key"], r["text"] or ""] for r in ranked])


def recipe_of(run: Path) -> Recipe | None:
    """The recipe that a run was made with; None for an exported model without its run."""
    import mmkd

    run = run.resolve()
    for folder in (run, *run.parents[:2]):
        if (folder / "recipe.yaml").is_file():
            recipe = mmkd.load_recipe(folder / "recipe.yaml")
            return recipe.baseline_recipe() if "baseline" in run.relative_to(folder).parts else recipe
    return None


def values_of(recipe: Recipe | None, run: str, image: str | None, text: str | None) -> tuple[str, str]:
    """The two values to compare: as given, or ports `a` and `b` of the recipe's `core.retrieval`."""
    evaluations = recipe.evaluate if recipe is not None else []
    ports: dict[str, Any] = next((e.arguments for e in evaluations if e.use == "core.retrieval"), {})
    image, text = image or ports.get("a"), text or ports.get("b")
    if image is None or text is None:
        raise RecipeError(
            "has no evaluation 'core.retrieval' that says which values of picture and text to compare", where=run,
            next="--image-value up --text-value teacher.embedding",
        )  # fmt: skip
    return image, text


def pictures(recipe: Recipe | None, run: str, folder: Path | None) -> Dataset:
    """The folder's pictures, or the first evaluation dataset of the run that has some."""
    from mmkd.datasets import evaluation
    from mmkd_vision_language.image_text import ImageTextDataset

    if folder is not None:
        return ImageTextDataset(str(folder), captions=False)
    for dataset in evaluation(recipe).datasets.values() if recipe is not None else ():
        if len(dataset) and "image" in dataset[0]:
            return dataset
    raise DataError("names no evaluation data with pictures", where=run, next="--images FOLDER")


def embed(model: TrainingGraph, address: str, samples: Any) -> Tensor:
    """One value of every sample, of length 1; runs nothing that the value does not stand on."""
    import itertools

    import torch

    parts = []
    with torch.no_grad():
        while batch := list(itertools.islice(samples, BATCH)):
            values = model.values(model.collate(batch, [address]), [address])
            if values[address].dim() != 2:
                shape = list(values[address].shape)
                raise RecipeError(f"'{address}' is no embedding [B, D]: its shape is {shape}", where="search")
            parts.append(torch.nn.functional.normalize(values[address].float(), dim=-1).cpu())
    return torch.cat(parts)


def _write(path: Path, queries: list[str], found: list[list[Any]]) -> None:
    from mmkd_vision_language.picture import sheet

    try:
        sheet(queries, {"": [[sample["image"] for sample in samples] for samples in found]}).save(path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot be written: {error}", where=str(path), next="--picture sheet.png") from error
