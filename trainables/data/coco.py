"""COCO 2014: photographs with objects of 80 categories, here as labels of the whole image.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. An image has the label of
every category that it has an instance of, however small, crowds included. The published
multi-label loaders reach the same: they keep a row of labels for each of three sizes of objects
and take the maximum. Images without annotations are left out. Class indices follow the order of
the categories in the annotation files.
"""

import numpy as np
from pydantic import BaseModel, ValidationError

from trainables.data.image_files import FileSplit
from trainables.data.indexed import FileDataset, Index, PublishedCounts
from trainables.data.reading import Reading, listed_once


class _CocoImage(BaseModel):
    id: int
    file_name: str


class _Annotation(BaseModel):
    image_id: int
    category_id: int


class _Category(BaseModel):
    id: int
    name: str


class _Instances(BaseModel):
    images: list[_CocoImage]
    annotations: list[_Annotation]
    categories: list[_Category]


def read_index(reading: Reading) -> Index:
    """Read the annotations, and see that each annotated image is there.

    Raises:
        ValueError: An annotation file is damaged, or they have different categories.
        FileNotFoundError: An annotation file or a folder of images is missing.
    """
    train = _instances(reading, "train2014")
    val = _instances(reading, "val2014")
    if train.categories != val.categories:
        raise ValueError(
            f"the categories in the annotations of train2014 and val2014 in {reading.root} "
            "differ, but must be the same in the same order"
        )
    return Index(
        tuple(category.name for category in train.categories),
        _split(reading, "train2014", train),
        _split(reading, "val2014", val),
    )


def _instances(reading: Reading, part: str) -> _Instances:
    name = _file(part)
    data = reading.text(name, f"the objects in the images of {part}/")
    try:
        return _Instances.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{reading.root / name} is damaged: {where}: {first['msg']}") from error


def _split(reading: Reading, part: str, instances: _Instances) -> FileSplit:
    """Return the annotated images of a part, in the order of the file."""
    labels = _labels(reading, part, instances)
    listed = listed_once(reading, instances.images, lambda image: f"{part}/{image.file_name}")
    annotated = [image for image in listed if labels[image.id]]
    reading.folder(part)
    names = [f"{part}/{image.file_name}" for image in annotated]
    here = reading.present(names)
    targets = np.zeros((len(annotated), len(instances.categories)), dtype=np.float32)
    for row, image in enumerate(annotated):
        targets[row, list(labels[image.id])] = 1
    found = [name for name, exists in zip(names, here, strict=True) if exists]
    return FileSplit.of(reading.root, found, targets[here])


def _labels(reading: Reading, part: str, instances: _Instances) -> dict[int, set[int]]:
    """Return the class indices of each image, by its id; note annotations of nothing known."""
    class_of = {category.id: index for index, category in enumerate(instances.categories)}
    labels: dict[int, set[int]] = {image.id: set() for image in instances.images}
    for position, annotation in enumerate(instances.annotations):
        image, category = annotation.image_id, annotation.category_id
        where = f"{_file(part)}, annotations.{position}"
        if image not in labels:
            reading.problem("annotations of an image that is not listed", f"{where}: {image}")
        elif category not in class_of:
            reading.problem("annotations of a category that is not listed", f"{where}: {category}")
        else:
            labels[image].add(class_of[category])
    return labels


def _file(part: str) -> str:
    return f"annotations/instances_{part}.json"


DATASET = FileDataset("coco", "multi_label", read_index, PublishedCounts(82_081, 40_137, 80))
