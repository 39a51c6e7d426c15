"""The documents against the code: what they list is all there is, and what they quote works."""

import copy
import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch
import typer
import yaml

import reduction
from analysis.report.page import SECTIONS
from analysis.samples import Sample, SampledCell, SampledImage
from analysis.tables import SCHEMAS
from orchestrator.cli import app
from orchestrator.study.shipped_recipes import shipped_recipes
from orchestrator.study.study import Grid, Resources, Study
from orchestrator.study.study_file import SHIPPED
from orchestrator.watching.prometheus import METRICS
from reduction import methods
from trainables.cell.cell import Cell
from trainables.cell.report import Ending
from trainables.data import DATASETS, open_dataset
from trainables.data.base import Subset
from trainables.evaluation import evaluate_cell
from trainables.loop import data as cell_data
from trainables.loop.opening import open_finetuning
from trainables.models.host import build_model
from trainables.recipe import Recipe
from trainables.storage.layout import LAYOUT

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")])
TEMPLATES = sorted(path for path in (ROOT / "experiments" / "clusters").iterdir() if path.is_file())
OURS = r"(?:^|[ /])(tokensweep|python -m orchestrator|full_grid\.py|slurm\.sbatch) (?=[a-z-])(.*)"
"""One of our programs, anywhere in a command line, and what it is given."""
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|mnt|opt|root|tmp|Users|usr|var|work)/")
HOOKS = {
    "before_block": "before",
    "before_attention": "before attention",
    "select_queries": "in attention",
    "after_attention": "after attention",
    "after_block": "after",
}

by_name = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def section(document, heading):
    """Text below a heading, down to the next one of its level or above."""
    text = (ROOT / document).read_text()
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"{document} has no heading {heading}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text):
    """Rows of all tables in a text, as dicts of their cells by heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        head, _, *body = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        )
        found += [dict(zip(head, cells, strict=True)) for cells in body]
    return found


def code(text):
    return re.findall(r"`([^`\n]+)`", text)


def documented(text, key):
    """First column of a text's tables -> the row, for every name that stands there in code."""
    return {name: row for row in rows(text) if key in row for name in code(row[key])}


def default_in(row):
    value = row["default"]
    return value if value == "required" else yaml.safe_load(value.strip("`"))


def default_of(field):
    if field.is_required():
        return "required"
    value = field.default
    plain = value.model_dump(exclude_unset=True) if hasattr(value, "model_dump") else value
    return json.loads(json.dumps(plain))


@pytest.mark.parametrize(
    ("model", "heading", "key"),
    [
        (Study, "## Study", "key"),
        (Grid, "## Grid", "key"),
        (Resources, "## Resources", "key"),
        (Recipe, "## Recipe", "field"),
    ],
)
def test_every_key_is_documented_with_its_default(model, heading, key):
    table = documented(section("docs/study-files.md", heading), key)
    assert list(table) == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert (name, default_in(table[name])) == (name, default_of(field))


def test_datasets_and_shipped_studies_are_documented():
    text = (ROOT / "docs/study-files.md").read_text()
    assert set(documented(text, "dataset")) == set(DATASETS)
    assert set(documented(text, "shipped study")) == {path.stem for path in SHIPPED.glob("*.yaml")}
    assert set(documented(text, "recipe")) >= set(shipped_recipes())


def test_every_command_is_documented():
    table = documented((ROOT / "docs/commands.md").read_text(), "command")
    assert set(table) == set(commands())


def test_every_page_is_in_the_table_of_documents():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/README.md").read_text()))
    assert linked == pages


def test_the_architecture_names_files_that_exist():
    spans = code((ROOT / "docs/architecture.md").read_text())
    paths = {span for span in spans if re.fullmatch(r"\w+/[\w/]+\.py", span)}
    assert len(paths) > 20
    assert {path for path in paths if not (ROOT / path).is_file()} == set()


def test_every_folder_of_the_code_is_on_the_floor_plan():
    plan = set(code(section("docs/architecture.md", "## Floor plan")))
    for package in (ROOT / "orchestrator", ROOT / "trainables"):
        wings = {path.parent.name for path in package.glob("*/__init__.py")}
        assert {f"{wing}/" for wing in wings} <= plan


def test_the_front_page_counts_the_methods():
    reducing = [name for name in reduction.METHODS if name != "deit"]
    assert f"{len(reducing)} token reduction methods" in (ROOT / "README.md").read_text()


def test_what_happens_when_a_cell_fails_is_in_at_most_five_files():
    table = rows(section("docs/architecture.md", "## What happens when a cell fails"))
    files = [code(row["file"])[0] for row in table]
    assert len(files) <= 5
    texts = {file: (ROOT / file).read_text() for file in files}
    endings = set(re.findall(r"Ending\.([A-Z_]+)", "".join(texts.values())))
    assert endings == {ending.name for ending in Ending}
    others = [
        path
        for path in (ROOT / "orchestrator").rglob("*.py")
        if "Ending." in path.read_text() and str(path.relative_to(ROOT)) not in files
    ]
    assert others == []


def test_results_and_the_front_page_stay_short():
    lengths = {"README.md": 100, "docs/benchmarks.md": 150, "docs/concepts.md": 65}
    for name, most in lengths.items():
        assert len((ROOT / name).read_text().splitlines()) <= most, f"{name} has grown too long"


def test_every_table_is_documented():
    text = (ROOT / "docs/tables.md").read_text()
    assert re.findall(r"^## (\w+)$", text, flags=re.MULTILINE) == list(SCHEMAS)


def test_every_file_of_a_store_is_documented():
    documented = rows(section("docs/store-layout.md", "## Files"))
    assert [tuple(row.values()) for row in documented] == [
        (f"`{file.place}`", file.kind, file.writer, file.holds) for file in LAYOUT
    ]


def test_every_section_of_the_report_is_documented():
    table = rows((ROOT / "docs/report.md").read_text())
    assert [row["section"] for row in table] == [section.title for section in SECTIONS]


def test_every_metric_for_prometheus_is_documented():
    table = documented(section("docs/watching.md", "## Prometheus"), "metric")
    described = {name: (row["type"], code(row["tags"])) for name, row in table.items()}
    assert described == {
        metric.name: (metric.kind, ["study", *filter(None, [metric.tag])]) for metric in METRICS
    }


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_is_documented_with_its_type(table):
    text = section("docs/tables.md", f"## {table}")
    shared = re.search(r"\[(\w+ columns)\]", text)
    columns = documented(section("docs/tables.md", f"## {shared[1]}"), "column") if shared else {}
    columns |= documented(text, "column")
    assert {name: row["type"] for name, row in columns.items()} == SCHEMAS[table]
    assert list(columns) == list(SCHEMAS[table])


@pytest.fixture(scope="module", params=["digits", "digits_multi"])
def evaluation(request):
    return evaluated(request.param)


def evaluated(name, **fields):
    """Return what evaluating an untrained cell on a few images leaves."""
    recipe = {"host": "digits_tiny_patch4_32", "image_size": 32, "crop_ratio": 1.0} | fields
    cell = Cell(
        dataset=name,
        method="dpcknn",
        capacity="tiny",
        keep_rate=0.5,
        reduction_loc=(3, 6, 9),
        recipe=Recipe(**recipe),
    )
    dataset = open_dataset(name)
    few = dataclasses.replace(dataset, val=Subset(dataset.val, range(12)))
    classes = len(dataset.asked(cell.recipe.task).class_names)
    weights = build_model(cell, classes, pretrained=False).state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_data, "open_dataset", lambda *unused: few)
        return evaluate_cell(
            cell, weights, data_root=None, device=torch.device("cpu"), threads=1, batch_size=4
        )


def test_every_key_of_a_sample_is_documented():
    table = documented(section("docs/tables.md", "## samples/SETTING.json"), "key")
    assert set(table) == set(Sample.model_fields)
    for name, model in (("chosen", SampledImage), ("cells", SampledCell)):
        assert set(model.model_fields) <= set(code(table[name]["meaning"]))


@pytest.mark.parametrize("kind", ["patterns", "features"])
def test_every_array_is_documented_with_its_type(evaluation, kind):
    arrays = {
        re.sub(r"_\d+$", "_l", name): (str(array.dtype), array.ndim)
        for name, array in getattr(evaluation, kind).items()
    }
    described = documented(section("docs/tables.md", f"## {kind}.npz"), "array")
    types = {}
    for name, row in described.items():
        if row["meaning"].startswith("embedding"):
            continue
        dtype, shape = row["type"].split(" ", maxsplit=1)
        types[name] = (dtype, len(re.findall(r"\w+", shape)))
    assert arrays == types


def test_every_metric_and_prediction_is_documented(evaluation):
    other = "single label" if "map" in evaluation.metrics else "several labels"
    for heading, key, names in (
        ("## eval.json", "key", evaluation.metrics),
        ("## predictions.parquet", "column", evaluation.predictions.columns),
    ):
        described = documented(section("docs/tables.md", heading), key)
        others = (other, "embedding")
        here = {name for name, row in described.items() if not row["meaning"].startswith(others)}
        assert {re.sub(r"_\d$", "", name) for name in names} == {
            re.sub(r"_\d$", "", name) for name in here
        }


def test_what_an_embedding_has_instead_is_documented():
    of_labels, found = evaluated("digits"), evaluated("digits", task="embedding", epochs=0)
    for heading, key, before, names in (
        ("## eval.json", "key", of_labels.metrics, found.metrics),
        ("## predictions.parquet", "column", of_labels.predictions, found.predictions),
        ("## features.npz", "array", of_labels.features, found.features),
    ):
        described = documented(section("docs/tables.md", heading), key)
        here = {name for name, row in described.items() if row["meaning"].startswith("embedding")}
        mentioned = {"loss", "target", "class_1"}  # In the same rows.
        assert set(names) - set(before) == here - mentioned


def test_every_report_and_result_of_training_is_documented():
    recipe = {"host": "digits_tiny_patch4_32", "image_size": 32, "epochs": 0, "pretrained": False}
    cell = Cell(
        dataset="digits",
        method="topk",
        capacity="tiny",
        keep_rate=0.5,
        reduction_loc=(3,),
        recipe=Recipe(**recipe, warmup_epochs=0),
    )
    finetuning = open_finetuning(cell, data_root=None, device=torch.device("cpu"), threads=1)
    kept = {"log.jsonl": {"time", *finetuning.run(lambda: True).entry()}}
    kept["result.json"] = {"attempts", "gentler", *finetuning.result()}
    for name, keys in kept.items():
        assert set(documented(section("docs/tables.md", f"## {name}"), "key")) == keys


@pytest.fixture(scope="module")
def host():
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=10
    ).eval()


def method_rows(column):
    """The rows of the table of methods that has this column."""
    text = (ROOT / "docs/methods.md").read_text()
    return {code(row["method"])[0]: row for row in rows(text) if column in row}


def test_every_method_is_documented_with_what_it_is():
    table = method_rows("family")
    assert list(table) == list(reduction.METHODS)
    for name, row in table.items():
        info, stage = reduction.METHODS[name], methods.method_class(name)
        acts = [place for hook, place in HOOKS.items() if stage.overrides(hook)]
        assert (name, row["family"]) == (name, info.family)
        assert (name, row["acts"]) == (name, ", ".join(acts) or "nowhere")
        assert (name, row["records"]) == (name, ", ".join(info.patterns) or "nothing")


def tokens_left(stage):
    if stage.pads:
        return "by image"
    return "capped" if stage.capped else "exact"


def test_every_method_has_a_row_for_those_who_choose_one(host):
    text = (ROOT / "docs/choosing.md").read_text()
    table = {name: row for row in rows(text) for name in code(row["method"])}
    assert list(table) == list(reduction.METHODS)
    for name, row in table.items():
        stage = methods.method_class(name)
        model = reduction.reduce(copy.deepcopy(host), name, keep_rate=0.6, reduction_loc=(1,))
        learns = any(True for _ in model.stages.parameters())
        assert (name, row["untrained"]) == (name, "no" if learns else "yes")
        assert (name, row["tokens left"]) == (name, tokens_left(stage))
        assert (name, row["CLS"]) == (name, "needed" if stage.needs_cls else "")


def test_every_method_is_documented_with_its_options_and_source():
    table = method_rows("options")
    assert list(table) == list(reduction.METHODS)
    for name, row in table.items():
        info = reduction.METHODS[name]
        known = {
            option: list(value) if isinstance(value, tuple) else value
            for option, value in info.options.items()
        }
        options = {}
        for option in code(row["options"]):
            value = yaml.safe_load(option)
            options |= value if isinstance(value, dict) else {}
        assert (name, options) == (name, known)
        assert (name, row["citation"]) == (name, info.citation)


@pytest.mark.parametrize("method", reduction.METHODS)
def test_documented_parameters_and_costs_are_those_of_the_stages(host, method):
    row = method_rows("options")[method]
    parameters, cost = (code(row[key])[0] for key in ("parameters", "multiply-accumulates"))
    model = reduction.reduce(host, method, keep_rate=0.6, reduction_loc=(1, 2))
    incoming = 64
    for stage, block in zip(model.stages, model.blocks[1:], strict=True):
        target = int(0.6 ** (stage.spec.index + 1) * 64)
        sizes = {"N": incoming, "n": target, "P": 1, "C": 24, "D": 8, "b": stage.spec.block}
        sizes |= {"L": len(model.blocks), "K": 10}
        left = stage.count(incoming)
        assert sum(p.numel() for p in stage.parameters()) == eval(parameters, sizes)
        assert stage.macs(incoming, left, block) == eval(cost, sizes)
        incoming = left


def test_the_schedules_are_those_of_the_example():
    source = section("docs/methods.md", "## How much is reduced")
    names = {}
    exec(re.search(r"```python\n(.*?)```", source, flags=re.DOTALL)[1], names)
    model = names["model"]
    assert [stage.spec.block for stage in model.stages] == [1, 2, 4]
    _, trace = model.eval().forward_with_trace(torch.randn(1, 3, 64, 64))
    assert [count.item() for count in trace.tokens.values()] == [48, 32, 16]
    comment = re.search(r"# ([\d, ]+) in its six blocks", source)[1]
    reduction.set_schedule(model, r=(8, -1), reduction_loc=range(6))
    removed = [stage.spec.removal(64) for stage in model.stages]
    assert ", ".join(map(str, removed)) == comment


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Add the method of the documents just as they say; return its name."""
    text = section("docs/methods.md", "## Add a method")
    source = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1]
    assert source.count("\n") < 60
    ((name, place),) = yaml.safe_load(re.search(r"`(\".*?\": \".*?\")`", text)[1]).items()
    module = place.partition(":")[0]
    assert f"`{module}.py`" in text
    assert f'`Entry("{name}")`' in text
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setitem(methods.CLASSES, name, place)
    yield name
    sys.modules.pop(f"{methods.__name__}.{module}", None)
    vars(methods).pop(module, None)


def test_the_added_method_works(host, added):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    entering = host.blocks[0](host._pos_embed(host.patch_embed(images)))[:, 1:]
    order = entering.norm(dim=-1).argsort(dim=1)
    for options, expected in (({}, order.flip(1)), ({"smallest": True}, order)):
        model = reduction.reduce(host, added, keep_rate=0.5, reduction_loc=(1, 2), **options)
        logits, trace = model.forward_with_trace(images)
        assert logits.shape == (2, 10)
        assert {block: counts.tolist() for block, counts in trace.tokens.items()} == {
            1: [32, 32],
            2: [16, 16],
        }
        assert torch.equal(trace.kept[1], expected[:, :32])
        kept = [set(row) for row in trace.kept[1].tolist()]
        assert all(set(row) < kept[image] for image, row in enumerate(trace.kept[2].tolist()))
    assert reduction.METHODS[added].options == {"smallest": False}


def test_the_documents_were_found():
    names = {"README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))}
    assert names <= {str(path.relative_to(ROOT)) for path in DOCUMENTS}


@by_name
def test_no_relative_link_is_broken(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), f"{document.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in headings]
            assert anchor in slugs, f"{document.name}: {target}"


@by_name
def test_no_path_of_a_machine_is_named(document):
    assert not MACHINE_PATH.search(document.read_text())


def check_command(line):
    """Parse what one of our programs is given in a command line; tell whether there is one."""
    found = re.search(OURS, line)
    if found is None:
        return False
    program, given = found.groups()
    words = shlex.split(given, comments=True)
    name = words.pop(0) if program in ("tokensweep", "python -m orchestrator") else "run"
    commands()[name].make_context(name, words)
    return True


def commands():
    return typer.main.get_command(app).commands


@by_name
def test_every_quoted_command_line_is_understood(document):
    text = document.read_text()
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines()]
    spans = code(re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in (*lines, *spans):
        check_command(line)
    known = {option for command in commands().values() for p in command.params for option in p.opts}
    assert {span.split()[0] for span in spans if span.startswith("--")} <= known


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_command_line_of_a_template_is_understood(template):
    folded = re.sub(r"\n +(?=--)", " ", template.read_text()).replace(' "$@" &', "")
    checked = sum(check_command(line) for line in folded.splitlines())
    assert checked == {"slurm.sbatch": 2, "kuberay_rayjob.yaml": 1}.get(template.name, 0)


@by_name
def test_every_make_target_exists(document):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"(?:`|^)make ([a-z-]+)", document.read_text(), flags=re.MULTILINE)
    assert set(named) <= set(targets)


def test_the_librarys_examples_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(methods, "_REGISTERED", {})
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
