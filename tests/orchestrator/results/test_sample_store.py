"""Samples in the store: made from evaluated cells, checked, and made again when they change."""

import random

import numpy as np
import pandas as pd
import pytest
from contexts import RecordedContext
from damage import flip_a_bit
from made_cells import CELL
from PIL import Image

from orchestrator.results.cell_records import record_of
from orchestrator.results.sample_store import (
    publish_samples,
    read_sample,
    read_samples,
    repair_samples,
    sample_digests,
    samples_are_current,
)
from orchestrator.results.sampling import (
    SampleJob,
    in_this_process,
    is_current,
    make_sample,
    make_samples,
    sample_settings,
)
from orchestrator.results.table_store import fingerprint
from orchestrator.store.store import Store
from trainables.storage.files import DamagedFileError, write_sealed_json

IMAGES = 6


def variant(**changes):
    recipe = CELL.recipe.model_copy(update={"image_size": 32, "crop_ratio": 1.0})
    return CELL.model_copy(update={"recipe": recipe, **changes})


def evaluate(stored, seed):
    """Leave what evaluating a cell on 4 x 4 patches of the first digits would."""
    draw = np.random.default_rng(seed)
    kept = draw.permuted(np.arange(16)[None].repeat(IMAGES, axis=0), axis=1)[:, :4]
    patterns = {"image": np.arange(IMAGES), "grid": np.array([4, 4]), "depth": np.array(12)}
    patterns |= {f"kept_{block}": kept.astype(np.uint8) for block in (3, 6, 9)}
    predictions = pd.DataFrame(
        {"image": range(IMAGES), "target": 1, "class_1": draw.integers(0, 2, IMAGES)}
    )
    stored.save_best(b"weights", {"accuracy": 50.0})
    stored.write_result({"accuracy": 50.0})
    features = {"cls_3": np.ones((IMAGES, 2))}
    arrays = {"patterns": patterns, "features": features}
    stored.evaluations()[None].write({"accuracy": 50.0}, predictions, arrays)


@pytest.fixture
def study(tmp_path):
    """A store with evaluated cells of one setting, and one that is not evaluated."""
    cells = [variant(), variant(method="evit"), variant(seed=1), variant(capacity="small")]
    store = Store(tmp_path / "study")
    store.create({"name": "study"}, cells)
    for number, cell in enumerate(cells[:3]):
        evaluate(store.cell(cell.id), number)
    return store


def cells_of(store):
    return [store.cell(cell_id) for cell_id in store.cell_ids()]


def settings_of(store):
    cells = cells_of(store)
    return list(sample_settings([record_of(cell) for cell in cells], fingerprint(cells)))


def publish(store):
    for setting in settings_of(store):
        made = make_sample(SampleJob(setting, store.path, None))
        write_sealed_json(store.samples / setting.file, made.model_dump(mode="json"))
    publish_samples(store, [s.file for s in settings_of(store)], fingerprint(cells_of(store)))


def test_a_setting_has_the_evaluated_cells_of_the_seed_with_the_most(study):
    (setting,) = settings_of(study)
    assert [(r.method, r.seed) for r in setting.records] == [("topk", 0), ("evit", 0)]
    assert setting.file == "digits-tiny-3.6.9.json"
    assert set(setting.inputs) == {record.cell_id for record in setting.records}


def test_a_sample_comes_back_from_the_store_as_it_was(study):
    assert read_samples(study) == []
    publish(study)
    (sample,) = read_samples(study)
    (setting,) = settings_of(study)
    assert sample == make_sample(SampleJob(setting, study.path, None))
    assert [chosen.image for chosen in sample.chosen][:3] == [0, 1, 2]
    assert all(chosen.picture.startswith("data:image/png;base64,") for chosen in sample.chosen)
    assert sample.class_names[1] == "1"
    assert samples_are_current(study, fingerprint(cells_of(study)))


def test_an_evaluation_that_changes_makes_its_setting_outdated(study):
    publish(study)
    (before,) = settings_of(study)
    path, digests = study.samples / before.file, sample_digests(study)
    assert is_current(path, before)
    evaluate(study.cell(before.records[0].cell_id), 7)
    (after,) = settings_of(study)
    assert not is_current(path, after)
    assert not samples_are_current(study, fingerprint(cells_of(study)))
    publish(study)
    assert is_current(path, after)
    assert sample_digests(study) != digests


def test_a_damaged_sample_is_named_and_made_again(study):
    publish(study)
    (setting,) = settings_of(study)
    path = study.samples / setting.file
    flip_a_bit(path, random.Random(0))
    assert not is_current(path, setting)
    for read in (read_samples, lambda s: samples_are_current(s, fingerprint(cells_of(s)))):
        with pytest.raises(DamagedFileError, match=f"{setting.file} is damaged"):
            read(study)
    assert [error.path for error in repair_samples(study)] == [path]
    assert repair_samples(study) == []
    assert not samples_are_current(study, fingerprint(cells_of(study)))


@pytest.mark.parametrize("picture", ["javascript:alert(1)", 'data:image/png;base64,AA" onload="'])
def test_a_sealed_file_that_is_no_sample_is_refused(study, picture):
    publish(study)
    (sample,) = read_samples(study)
    content = sample.model_dump(mode="json")
    content["chosen"][0]["picture"] = picture
    path = study.samples / "digits-tiny-3.6.9.json"
    write_sealed_json(path, content)
    with pytest.raises(DamagedFileError, match="it holds no sample"):
        read_sample(path)


def test_settings_that_are_gone_are_removed(study):
    publish(study)
    write_sealed_json(study.samples / "gone-tiny-3.json", {})
    publish(study)
    assert [path.name for path in study.samples.glob("*-*")] == ["digits-tiny-3.6.9.json"]


def test_a_dataset_that_is_not_at_hand_leaves_a_sample_without_pictures(study, tmp_path):
    cells = [variant(dataset="folder"), variant(dataset="folder", method="evit")]
    store = Store(tmp_path / "other")
    store.create({"name": "other"}, cells)
    for number, cell in enumerate(cells):
        evaluate(store.cell(cell.id), number)
    publish(store)
    (sample,) = read_samples(store)
    assert {chosen.picture for chosen in sample.chosen} == {None}
    assert len(sample.chosen) >= 3
    assert sample.cells[0].overlays[3][0].count("+") == 4
    assert "folder" in sample.note
    (setting,) = settings_of(store)
    assert not is_current(store.samples / setting.file, setting), "the dataset may come"
    assert samples_are_current(store, fingerprint(cells_of(store))), "but nobody waits for it"


def fill(store, data=None, stopping=lambda: False):
    context = RecordedContext(stopping)
    cells = cells_of(store)
    made = in_this_process(context)
    make_samples(store, cells, fingerprint(cells), data, made, pictures=data is not None)
    return context.notes


def test_a_report_makes_the_samples_that_are_missing_or_outdated(study):
    assert fill(study, stopping=lambda: True) == []
    assert read_samples(study) == []
    assert fill(study) == []
    made = sample_digests(study)
    (sample,) = read_samples(study)
    assert all(chosen.picture for chosen in sample.chosen)
    assert not samples_are_current(study, fingerprint(cells_of(study))), "comparing looks again"
    (setting,) = settings_of(study)
    evaluate(study.cell(setting.records[0].cell_id), 7)
    assert fill(study) == []
    assert sample_digests(study) != made
    assert is_current(study.samples / setting.file, settings_of(study)[0])


def test_a_sample_that_cannot_be_made_is_named_and_the_others_are(study):
    evaluate(study.cell(variant(capacity="small").id), 3)
    first, second = settings_of(study)
    damaged = study.cell(first.records[0].cell_id).path / "patterns.npz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (said,) = fill(study)
    assert said.startswith(f"no sample images for {first.file}: {damaged} is damaged: ")
    assert [path.name for path in study.samples.glob("*.json")] == [second.file]


def test_a_report_looks_for_pictures_where_it_is_given_a_folder(tmp_path):
    cells = [variant(dataset="folder"), variant(dataset="folder", method="evit")]
    store = Store(tmp_path / "study")
    store.create({"name": "study"}, cells)
    for number, cell in enumerate(cells):
        evaluate(store.cell(cell.id), number)
    fill(store)
    assert read_samples(store)[0].note == "dataset 'folder' needs a folder, but none is given"
    for split in ("train", "val"):
        for name in "ab":
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (40, 40), (50 * number, 9, 9)).save(folder / f"{number}.png")
    fill(store, tmp_path / "data")
    (sample,) = read_samples(store)
    assert sample.note is None
    assert all(chosen.picture for chosen in sample.chosen)
