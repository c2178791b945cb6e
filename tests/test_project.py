"""The project's own files agree with each other: packaging, pins, licence, make targets, what the README claims."""

import ast
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import minemu
from minemu import cli
from minemu.data.captions import parse, same
from minemu.data.episodes import blends
from minemu.data.world import ToyWorld
from minemu.evaluation import report
from minemu.files import read_json
from minemu.pipeline import DECODER_FOLDER, EmuPipeline
from minemu.training.export import adapter_card, model_card

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
UNFIT = {
    "torchvision",
    "timm",
    "open-clip-torch",
    "torch-fidelity",
    "pytorch-fid",
    "clean-fid",
}  # torchvision breaks imports


def pins(python: str) -> dict[str, Requirement]:
    """What constraints.txt pins for a Python version; a name twice is an error."""
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    found: dict[str, Requirement] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment):
                assert canonicalize_name(pin.name) not in found, f"{pin.name} is pinned twice for Python {python}"
                found[canonicalize_name(pin.name)] = pin
    return found


def requirements(*extras: str) -> list[Requirement]:
    """Core dependencies and those of some extras, with `minemu[...]` inside an extra resolved."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        for line in EXTRAS[extra]:
            found = Requirement(line)
            lines += map(str, requirements(*found.extras)) if found.name == "minemu" else [line]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_pin_inside_its_range(python):
    pinned = pins(python)
    for requirement in requirements("dev", "build", "video"):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            pin = pinned[canonicalize_name(requirement.name)]
            (exact,) = pin.specifier
            assert exact.operator == "==" and requirement.specifier.contains(exact.version), f"{requirement} but {pin}"


def test_nothing_that_needs_torchvision_is_wanted_or_installed():
    named = {canonicalize_name(r.name) for r in requirements(*EXTRAS)} | set(pins("3.11"))
    assert not named & UNFIT
    assert find_spec("torchvision") is None


def test_conda_environment_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    (python,) = (
        re.fullmatch(r"python=([\d.]+)", e)[1] for e in environment["dependencies"] if str(e).startswith("python")
    )
    assert "pip" in environment["dependencies"]
    assert python in PYTHONS and SpecifierSet(PROJECT["requires-python"]).contains(python)
    makefile = (ROOT / "Makefile").read_text()
    (extra,) = re.findall(r"--editable '?\.\[(\w+)\]", makefile)
    assert extra in EXTRAS
    assert (
        pip == ["--constraint constraints.txt", f"--editable .[{extra}]"] and "--constraint constraints.txt" in makefile
    )


def test_workflow_covers_the_pythons_that_are_claimed():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["test"]
    claimed = [name.rsplit(" ", 1)[1] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert job["strategy"]["matrix"]["python"] == claimed == PYTHONS
    assert job["steps"][-1]["run"] == ".ci/run"
    assert os.access(ROOT / ".ci/run", os.X_OK) and "make test" in (ROOT / ".ci/run").read_text()


def test_one_version_one_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == minemu.__version__ == citation["version"]
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


def test_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {"demo", "test"} <= set(re.findall(r"\bmake (\w+)", readme)) & targets
    commands = {command.callback.__name__ for command in cli.app.registered_commands}
    assert set(re.findall(r"^\s*(?:\$ )?minemu (\w+)", readme, flags=re.M)) <= commands


def anchors(path):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "name", ["README.md", "ROADMAP.md", "docs/lab-notes.md", "notebooks/README.md", "data_samples/README.md"]
)
def test_links_of_pages_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"(?:\]\(|(?:src|href)=\")(?!https?://)([^)\s\"]+)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


CHECKPOINT = ROOT / "data_samples/emu-tiny"
ADAPTER = ROOT / "data_samples/emu-tiny-instruct"
FULL_SCALE = ROOT / "data_samples/published/full-scale.json"


def test_the_shipped_configuration_is_that_of_the_decoder_beside_it():
    told, own = read_json(CHECKPOINT / "config.json")["decoder"], read_json(CHECKPOINT / DECODER_FOLDER / "config.json")
    assert own.pop("model_type") == "emu_visual_decoder" and told == own


@pytest.mark.parametrize(
    ("name", "path", "table"),
    [
        ("results", CHECKPOINT / "results.json", lambda path: report.table(report.read_results(path))),
        ("aims", CHECKPOINT / "results.json", lambda path: report.table(report.read_results(path), aims_alone=True)),
        ("instruct", ADAPTER / "results.json", lambda path: report.table(report.read_results(path))),
        ("bench", CHECKPOINT / "bench.json", lambda path: report.bench_table(report.read_bench(path))),
        ("parity", ROOT / "data_samples/published", lambda path: report.parity_table(report.read_parity(path))),
        ("full-scale", FULL_SCALE, lambda path: report.full_scale_table(report.read_full_scale(path))),
    ],
)
def test_readme_shows_what_the_results_files_say(name, path, table):
    parts = re.split(rf"<!-- {name}:(?:begin|end) -->", (ROOT / "README.md").read_text())
    shown = parts[1].strip() if len(parts) == 3 else ""
    assert shown == (table(path) if path.exists() else ""), (
        "run: minemu report data_samples/emu-tiny/results.json README.md"
    )


def test_readme_counts_what_intervals_are_of():
    drawings = ToyWorld("new-drawing").keys
    sums, concepts = {triple[:3] for triple, _ in blends()}, ToyWorld("new-concept").labels
    said = f"There are {len(drawings)} new drawings ({len({label for label, _ in drawings})} things, "
    readme = (ROOT / "README.md").read_text()
    assert said in readme and f"{len(sums)} sums in up to four styles, {len(concepts)} new concepts" in readme


@pytest.mark.parametrize(("folder", "card"), [(CHECKPOINT, model_card), (ADAPTER, adapter_card)])
def test_model_card_shows_what_its_files_say(folder, card):
    written = folder / "README.md"
    assert not written.exists() or written.read_text() == card(folder)


@pytest.mark.parametrize("folder", [CHECKPOINT, ADAPTER])
def test_results_are_of_the_weights_beside_them(folder):
    measured = report.read_results(folder / "results.json")
    assert {name: measured.get(name) for name in report.weights_of(folder)} == report.weights_of(folder)


def test_the_shipped_checkpoint_reads():
    """Loosely: what it can is measured in its results.json."""
    pipe = EmuPipeline.from_pretrained(CHECKPOINT)
    world = ToyWorld("seen", kinds=("single",), held_out=True, image_size=pipe.processor.image_size)
    samples = [world.sample(i) for i in range(8)]
    assert sum(same(one.scene, parse(pipe.caption(one.picture), world.labels)) for one in samples) >= 6
    tuned = EmuPipeline.from_pretrained(ADAPTER)  # of this base, or it would be refused
    assert tuned.chat(
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "what is this?"}, {"type": "image", "image": samples[0].picture}],
            }
        ]
    ).text


def test_samples_stay_small():
    sizes = {path: path.stat().st_size for path in (ROOT / "data_samples").rglob("*") if path.is_file()}
    checkpoint = sum(size for path, size in sizes.items() if {"emu-tiny", "emu-tiny-instruct"} & {*path.parts})
    assert checkpoint <= 40e6
    assert sum(sizes.values()) - checkpoint <= 10e6


def test_nothing_is_ever_unpickled():
    for path in [*ROOT.glob("minemu/**/*.py"), *ROOT.glob("data_samples/*.py"), *ROOT.glob("tests/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "joblib", "shelve"}, (
                    f"{path} line {node.lineno} imports a pickler"
                )
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path} line {node.lineno} may unpickle"
