"""Which values are chosen, from planted results of trials."""

import random

import pytest

from orchestrator.store.searches import (
    Candidate,
    Search,
    choose,
    read_searches,
    stored_choice,
    write_searches,
)

RATES = (1e-4, 3e-4, 1e-3, 3e-3)


def search(method="topk", rates=RATES, cells=("cell",)):
    return Search(
        recipe="mine",
        place={"dataset": "digits", "capacity": "tiny", "method": method},
        scheduler="none",
        candidates=[
            Candidate(values={"lr": rate}, trials=(f"{method}-trial-{n}",))
            for n, rate in enumerate(rates)
        ],
        cells=cells,
    )


def results(method, accuracies, losses=None, **more):
    losses = losses or [1.0] * len(accuracies)
    return {
        f"{method}-trial-{n}": {"accuracy": a, "loss": x, "gentler": {}} | more.get(f"at{n}", {})
        for n, (a, x) in enumerate(zip(accuracies, losses, strict=True))
    }


@pytest.mark.parametrize("best", range(len(RATES)))
def test_the_planted_best_rate_of_every_method_is_found(best):
    noise = random.Random(best)
    for method in ("topk", "tome", "sinkhorn"):
        planted = [90 - 5 * abs(n - best) + noise.random() for n in range(len(RATES))]
        choice = choose(search(method), results(method, planted))
        assert choice.values == {"lr": RATES[best]}
        assert choice.accuracy == planted[best]
        assert choice.edges == (("lr",) if best in (0, len(RATES) - 1) else ())


def test_nothing_is_chosen_before_the_last_trial():
    found = results("topk", [80.0, 90.0, 85.0, 10.0])
    del found["topk-trial-3"]
    assert choose(search(), found) is None


def test_equal_accuracies_are_told_apart_by_the_loss_then_by_their_order():
    found = results("topk", [80.0, 90.0, 90.0, 90.0], [0.1, 0.5, 0.4, 0.4])
    assert choose(search(), found).values == {"lr": 1e-3}


def test_a_choice_for_several_methods_is_the_best_mean():
    shared = search().model_copy(
        update={
            "candidates": (
                Candidate(values={"lr": 0.1}, trials=("a-trial-0", "b-trial-0")),
                Candidate(values={"lr": 0.2}, trials=("a-trial-1", "b-trial-1")),
            )
        }
    )
    found = results("a", [90.0, 80.0]) | results("b", [50.0, 70.0])
    assert choose(shared, found).values == {"lr": 0.2}
    assert choose(shared, found).accuracy == 75.0


def test_a_value_whose_training_was_gentler_is_chosen_only_if_all_were():
    gentler = {"gentler": {"clip_grad": 1.0}}
    found = results("topk", [80.0, 81.0, 99.0, 70.0], at2=gentler)
    assert choose(search(), found).values == {"lr": 3e-4}
    all_gentler = results("topk", [80.0, 81.0, 99.0, 70.0], **{f"at{n}": gentler for n in range(4)})
    assert choose(search(), all_gentler).values == {"lr": 1e-3}


def test_an_edge_is_said_and_only_numbers_have_one():
    words = str(choose(search(), results("topk", [80.0, 81.0, 82.0, 83.0])))
    assert words == (
        "lr 0.003 (83.00 % on held-out images); lr is at the edge of what was tried (0.0001 to "
        "0.003)"
    )
    names = search(rates=("rand-m9", None))
    assert choose(names, results("topk", [80.0, 81.0])).edges == ()


def test_searches_are_read_as_they_were_written_and_go_with_the_section(store):
    assert read_searches(store) == []
    write_searches(store, [search(), search("tome")])
    assert read_searches(store) == [search(), search("tome")]
    assert stored_choice(store, search()) is None
    write_searches(store, [])
    assert read_searches(store) == []
