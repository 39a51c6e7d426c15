"""Which cells share a measurement of speed."""

import pytest

from trainables.measuring.configuration import Configuration


def configuration(cell, keep_rate=None, precision="auto", compiled=False):
    return Configuration.of(cell, keep_rate, precision, compiled=compiled)


def test_cells_share_what_no_forward_pass_depends_on(make_cell):
    cell = make_cell()
    same = make_cell(dataset="digits", epochs=7).model_copy(update={"seed": 3})
    assert configuration(cell).key == configuration(same).key


@pytest.mark.parametrize(
    "change",
    [
        {"method": "tome"},
        {"keep_rate": 0.25},
        {"reduction_loc": (1,)},
        {"options": {"equal_weight": True}},
        {"capacity": "small"},
    ],
)
def test_another_model_is_another_measurement(make_cell, change):
    cell = make_cell("kmedoids")
    assert configuration(cell).key != configuration(cell.model_copy(update=change)).key


def test_how_it_is_run_counts(make_cell):
    cell = make_cell()
    plain = configuration(cell).key
    others = {
        configuration(cell, precision="bf16").key,
        configuration(cell, compiled=True).key,
        configuration(make_cell(image_size=64)).key,
    }
    assert len(others | {plain}) == 4


def test_another_rate_of_a_cell_is_the_rate_of_other_cells(make_cell):
    assert configuration(make_cell(), 0.25).key == configuration(make_cell(keep_rate=0.25)).key


def test_where_images_decide_each_cell_has_its_own(make_cell):
    cell = make_cell("ats")
    other = cell.model_copy(update={"seed": 1})
    assert configuration(cell).key != configuration(other).key
    assert configuration(cell, 0.25).trained_as == cell.id
    assert configuration(make_cell()).trained_as is None
