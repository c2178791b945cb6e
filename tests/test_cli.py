"""The command line: what programs read, and one clear line on bad input."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

import minemu
from minemu import cli
from minemu.errors import MinemuError
from minemu.evaluation import report, tasks
from minemu.processor import EmuProcessor
from minemu.tokenizer import SPECIAL_TOKEN_SETS, load_tokenizer


def refused(capsys, *arguments):
    """The one line that a refused command prints."""
    assert cli.run(list(arguments)) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error.removeprefix("error: ").strip()


def module(monkeypatch, name, **contents):
    """Stand-in for a module that a command would import."""
    fake = ModuleType(name)
    vars(fake).update(contents)
    monkeypatch.setitem(sys.modules, name, fake)
    parent, _, child = name.rpartition(".")
    monkeypatch.setattr(sys.modules[parent], child, fake, raising=False)


def test_what_the_system_refuses_is_one_line(capsys, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "demo"))

    module(monkeypatch, "minemu.demo", run_demo=full)
    says = f"{tmp_path / 'demo'}: No space left on device; free disk space, or check the path and its rights"
    assert refused(capsys, "demo") == says


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian emu", "unknown command 'trian': did you mean 'train'?"),
        ("train", "(see: minemu train --help)"),
        ("train emu --stpes 3", "No such option: --stpes"),
        ("train encodr --preset emu-nano", "unknown stage 'encodr': did you mean 'encoder'?"),
        ("train encoder --preset emu-tyni", "unknown preset 'emu-tyni': did you mean 'emu-tiny'?"),
        ("train encoder --preset emu-14b", "preset 'emu-14b' has no recipe"),
        ("train encoder --preset emu-nano --set llm.layer=2", "unknown configuration key 'llm.layer': did you mean 'layers'?"),
        ("train encoder --preset emu-nano --set llm.layers", "--set llm.layers has no value; write it as KEY=VALUE"),
        ("recipe emu-nano --set train.emu.step=3", "unknown configuration key 'train.emu.step': did you mean 'steps'?"),
        ("evaluate nowhere --task captoin", "unknown task 'captoin': did you mean 'caption'?"),
        ("evaluate nowhere --task edit", "task 'edit' is not trained yet"),
        ("evaluate nowhere --task caption --shots 4", "task 'caption' takes no --shots; leave it out, or take one of few-"),
        ("evaluate nowhere --task few-shot-vqa --shots -1", "--shots -1 is negative; give 0 or more"),
        ("evaluate nowhere --task vqa", "there is no checkpoint folder nowhere"),
        ("evaluate nowhere --task caption --split sene", "has no split 'sene': did you mean 'seen'?"),
        ("evaluate nowhere --task caption --limit 0", "--limit 0 is too few"),
        ("evaluate nowhere --task caption --limit many", "Invalid value for '--limit'"),
        ("evaluate nowhere", "say what to measure: minemu evaluate nowhere --task caption"),
        ("evaluate nowhere --all --task caption", "--all is every task: leave it out, or --task"),
        ("recipe emu", "unknown preset 'emu': known: emu-nano, emu-tiny, emu-small, emu2-nano, emu2-tiny, emu2-small"),
        ("recipe emu-tiny --set foo=3", "unknown configuration key 'foo': known: name, vision, bridge, llm, objective, decoder, train"),
        ("generate c T notafolder/", "there is no folder notafolder/; check the path"),
        ("generate c T --seed -1", "Invalid value for '--seed'"),
        ("generate c T --seed 99999999999999999999999", "Invalid value for '--seed'"),
        ("generate c T --shots 2", "--shots is for --examples FOLDER: add it, or leave --shots out"),
        ("generate c T --out a.png --max-new-tokens 3", "--max-new-tokens is for words that it says"),
        ("plan emu-14b --batch 99999999999999", "--batch 99999999999999 is more than 10,000,000; give fewer"),
        ("plan emu-14b --set llm.context=999999999999999", "--length 999999999999999 is more than 10,000,000; give fewer"),
        ("report nothing.json README.md", "there is no results file nothing.json; write one with: minemu evaluate"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_the_fix(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *line.split())
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_help_is_quick_and_names_every_command():
    code = "import sys; from minemu import cli; cli.run(['--help']); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("demo", "train", "recipe", "generate", "evaluate", "report", "plan", "parity", "official", "bench"):
        assert f"\n  {command} " in shown


def test_a_bug_is_not_taken_for_bad_input(monkeypatch):
    def broken(*_):
        raise KeyError("oops")

    module(monkeypatch, "minemu.demo", run_demo=broken)
    with pytest.raises(KeyError, match="oops"):
        cli.run(["demo"])


def test_a_stopped_command_says_how_to_go_on(monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    module(monkeypatch, "minemu.demo", run_demo=stopped)
    module(monkeypatch, "minemu.training.recipe", run_recipe=stopped)
    assert cli.run(["recipe", "emu-nano"]) == cli.INTERRUPTED
    assert "stopped; run the same command again to go on" in capsys.readouterr().err
    assert cli.run(["demo"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "error: stopped\n"  # it begins anew


def test_demo_passes_its_arguments_on_and_writes_json(monkeypatch, tmp_path):
    asked = {}

    def run_demo(checkpoint, out, seed, open_browser, device):
        assert not open_browser and device is None
        asked.update(checkpoint=checkpoint, out=out, seed=seed)
        return {"captions": 3}

    module(monkeypatch, "minemu.demo", run_demo=run_demo)
    assert (
        cli.run(["demo", "here", "--out", str(tmp_path), "--seed", "4", "--json", str(tmp_path / "a" / "x.json")]) == 0
    )
    assert asked == {"checkpoint": "here", "out": tmp_path, "seed": 4}
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {"captions": 3}


def test_train_passes_overrides_on(monkeypatch, tmp_path, capsys):
    from minemu.training import recipe

    asked = []
    monkeypatch.setattr(recipe, "train_stage", lambda *arguments, **named: asked.append((*arguments, named)) or False)
    line = [
        "train",
        "emu",
        "--preset",
        "emu-nano",
        "--set",
        "llm.layers=6",
        "--set",
        "train.emu.steps = 3",
        "--run-dir",
        "r",
        "--device",
        "cpu",
        "--workers",
        "3",
        "--compile",
    ]
    assert cli.run([*line, "--json", str(tmp_path / "x.json")]) == 0
    assert [str(part) for part in asked[0][:3]] == ["emu-nano", "emu", "r"]
    assert asked[0][3] == {"llm.layers": "6", "train.emu.steps": "3"} and asked[0][-1] == {
        "base": None,
        "device": "cpu",
        "workers": 3,
        "compiled": True,
    }
    assert "not complete yet" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["complete"] is False


def test_recipe_passes_its_options_on(monkeypatch, tmp_path, capsys):
    from minemu.training import recipe

    asked = []
    monkeypatch.setattr(recipe, "run_recipe", lambda *given: asked.append(given) or Path("r/emu-nano/checkpoint"))
    line = [
        "recipe",
        "emu-nano",
        "--run-dir",
        "r",
        "--base",
        "b",
        "--device",
        "cpu",
        "--workers",
        "3",
        "--log-to",
        "trackio",
        "--instruct",
    ]
    assert cli.run([*line, "--set", "train.emu.steps=3", "--json", str(tmp_path / "x.json")]) == 0
    assert asked == [("emu-nano", Path("r"), {"train.emu.steps": "3"}, "trackio", True, "b", "cpu", 3, False)]
    assert "minemu demo r/emu-nano/checkpoint" in (said := capsys.readouterr().out)
    assert "minemu generate r/emu-nano/checkpoint-instruct PICTURE QUESTION" in said
    assert json.loads((tmp_path / "x.json").read_text())["checkpoint"] == "r/emu-nano/checkpoint"


def test_a_precision_is_that_of_all_stages_but_where_one_has_its_own(monkeypatch):
    from minemu.training import recipe
    from minemu.training.recipes import TRAINABLE, resolve

    asked = []
    monkeypatch.setattr(recipe, "run_recipe", lambda *given: asked.append(given[2]) or Path("c"))
    monkeypatch.setattr(recipe, "train_stage", lambda *given, **more: asked.append(given[3]))
    own = ["--precision", "float32", "--set", "train.emu.precision=bfloat16"]
    assert cli.run(["recipe", "emu-tiny", *own]) == 0 and cli.run(["train", "emu", *own]) == 0
    for changes in asked:
        _, made = resolve("emu-tiny", changes)
        assert {stage: getattr(made, stage).precision for stage in TRAINABLE} == {
            stage: "bfloat16" if stage == "emu" else "float32" for stage in TRAINABLE
        }


asked_dtypes = []


class Pipe:
    """A pipeline that draws red and says what it was asked."""

    model = SimpleNamespace(config=SimpleNamespace(name="emu-nano"), device=torch.device("cpu"))
    processor = SimpleNamespace(special={})

    @classmethod
    def from_pretrained(cls, source, dtype):
        asked_dtypes.append(dtype)
        if source == "nowhere":
            raise MinemuError("there is no checkpoint folder nowhere")
        return cls()

    def to(self, device):
        assert device.type == "cpu"
        return self

    def chat(self, sample, max_new_tokens):
        return SimpleNamespace(text=f"{len(sample)} pieces")

    def caption(self, shown, max_new_tokens):
        return "a caption"

    def __call__(self, sample, num_inference_steps, guidance_scale, generator):
        noise = torch.rand(1, generator=generator).item()
        return SimpleNamespace(images=[Image.new("RGB", (8, 8), (int(255 * noise), num_inference_steps or 0, 0))])


@pytest.fixture
def pipe(monkeypatch):
    module(monkeypatch, "minemu.pipeline", EmuPipeline=Pipe)


def test_generate_says_or_draws(pipe, tmp_path, capsys):
    assert cli.run(["generate", "c", "a llama", "and an ox"]) == 0
    assert capsys.readouterr().out == "2 pieces\n"
    drawn = []
    for seed in ("1", "1", "2"):
        out = tmp_path / "x.png"
        assert cli.run(["generate", "c", "a llama", "--out", str(out), "--seed", seed, "--steps", "7"]) == 0
        drawn.append(Image.open(out).getpixel((0, 0)))
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0][1] == 7


def test_a_checkpoint_is_loaded_in_the_precision_that_is_asked_for(pipe, measured):
    asked_dtypes.clear()
    for line in (["generate", "c", "a llama"], ["evaluate", "c", "--task", "caption"]):
        assert cli.run(line) == cli.run([*line, "--dtype", "auto"]) == 0
    assert asked_dtypes == ["float32", "auto"] * 2


def test_generate_passes_its_options_on(pipe, tmp_path, monkeypatch):
    asked = []

    def drawn(self, sample, **options):
        asked.append(options)
        return SimpleNamespace(images=[Image.new("RGB", (8, 8))])

    monkeypatch.setattr(Pipe, "__call__", drawn)
    assert cli.run(["generate", "c", "a llama", "--out", str(tmp_path / "x.png"), "--guidance", "3.5"]) == 0
    assert asked[0]["guidance_scale"] == 3.5 and asked[0]["num_inference_steps"] is None
    monkeypatch.setattr(Pipe, "chat", lambda self, sample, **options: asked.append(options) or SimpleNamespace(text=""))
    document = lambda self, sample, **options: asked.append(options) or ["a pear"]  # noqa: E731
    monkeypatch.setattr(Pipe, "continue_document", document, raising=False)
    for more in ([], ["--document", str(tmp_path / "new")]):
        assert cli.run(["generate", "c", "two pears", "and", *more, "--max-new-tokens", "7", "--seed", "5"]) == 0
    assert [options["max_new_tokens"] for options in asked[1:]] == [7, 7]
    assert asked[2]["generator"].initial_seed() == 5


def test_generate_asks_emu_i_in_its_template(pipe, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(Pipe, "processor", SimpleNamespace(special={"[USER]": 5}))
    monkeypatch.setattr(
        Pipe, "chat", lambda self, sample, max_new_tokens: asked.append(sample) or SimpleNamespace(text="")
    )
    (tmp_path / "a.jfif").write_bytes(b"")
    assert cli.run(["generate", "c", str(tmp_path / "a.jfif"), "what is this? " + "x" * 300]) == 0
    (message,) = asked[0]
    assert message["role"] == "user" and [part["type"] for part in message["content"]] == ["image", "text"]


def test_generate_reads_clips_and_goes_on_with_a_dialogue(pipe, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Pipe, "processor", SimpleNamespace(special={"[USER]": 5}))
    monkeypatch.setattr(
        Pipe, "chat", lambda self, sample, max_new_tokens: asked.append(sample) or SimpleNamespace(text="")
    )
    frames = [Image.new("RGB", (8, 8), (20 * k, 0, 0)) for k in range(12)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.png")
    pieces = [
        str(tmp_path / "clip.gif"),
        "what moves?",
        "assistant: a llama.",
        str(tmp_path / "still.png"),
        "and here?",
    ]
    assert cli.run(["generate", "c", *pieces]) == 0
    first, answer, second = asked[0]
    assert [part["type"] for part in first["content"]] == ["video", "text"] and len(first["content"][0]["video"]) == 8
    assert answer == {"role": "assistant", "content": "a llama."}
    assert [part["type"] for part in second["content"]] == ["image", "text"]


@pytest.mark.parametrize("name", ["clip.gif", "still.png", "frames/"])
def test_generate_describes_what_is_given_alone(pipe, tmp_path, monkeypatch, name):
    """By `EmuPipeline.caption`, of Emu-I too, a clip as well as a picture; beside a question the words decide."""
    asked = []
    monkeypatch.setattr(Pipe, "processor", SimpleNamespace(special={"[USER]": 5}))
    monkeypatch.setattr(Pipe, "caption", lambda self, shown, **kwargs: asked.append("caption") or "")
    monkeypatch.setattr(Pipe, "chat", lambda self, sample, **_: asked.append(len(sample)) or SimpleNamespace(text=""))
    frames = [Image.new("RGB", (8, 8), (20 * k, 0, 0)) for k in range(12)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "frames").mkdir()
    for path in ("still.png", "frames/1.png"):
        frames[0].save(tmp_path / path)
    assert cli.run(["generate", "c", f"{tmp_path}/{name}"]) == 0
    assert cli.run(["generate", "c", f"{tmp_path}/{name}", "what moves?"]) == 0
    assert asked == ["caption", 1]


def test_generate_refuses_a_dialogue_that_does_not_end_with_the_user(pipe, capsys, monkeypatch):
    words = Path(__file__).parent / "golden" / "emu1"
    processor = EmuProcessor(load_tokenizer(words, SPECIAL_TOKEN_SETS["Emu-I"]), image_size=8, n_image=2)
    monkeypatch.setattr(Pipe, "processor", processor)
    monkeypatch.setattr(Pipe, "chat", lambda self, sample, **_: processor.read_messages(sample))
    error = refused(capsys, "generate", "c", "what is this?", "assistant: a llama.")
    assert error == "the conversation does not end with the user: leave its last answer out, or ask something more"


def test_generate_does_not_take_a_missing_file_for_words(pipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("missing.png", "missing.mp4"):
        assert f"there is no file {name}; check the path" in refused(capsys, "generate", "c", name, "what is this?")
    assert cli.run(["generate", "c", "not in cat.png but here"]) == 0
    (tmp_path / "clip.mp4").write_bytes(b"x")
    assert "ffmpeg -i clip.mp4" in refused(capsys, "generate", "c", str(tmp_path / "clip.mp4"))
    assert "the folder holds no picture" in refused(capsys, "generate", "c", f"{tmp_path}/")


def test_generate_continues_a_document(pipe, tmp_path, capsys, monkeypatch):
    red = Image.new("RGB", (8, 8), "red")
    monkeypatch.setattr(
        Pipe, "continue_document", lambda self, sample, **kwargs: ["a pear", red, "a plum", red], raising=False
    )
    folder = tmp_path / "new" / "out"
    assert cli.run(["generate", "c", "fruits:", "--document", str(folder), "--json", str(tmp_path / "x.json")]) == 0
    shown = ["a pear", str(folder / "1.png"), "a plum", str(folder / "2.png")]
    assert capsys.readouterr().out.splitlines() == shown and (folder / "2.png").exists()
    assert json.loads((tmp_path / "x.json").read_text())["document"] == shown
    again = refused(capsys, "generate", "c", "fruits:", "--document", str(folder))
    assert f"--document {folder} is there already and not empty; name a new folder" in again
    both = refused(capsys, "generate", "c", "x", "--document", str(folder), "--out", "x.png")
    assert both.endswith("--rank chooses among words: give one of --out and --document")


def test_generate_ranks_answers(pipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        Pipe, "rank", lambda self, sample, answers: [(text, -k / 2) for k, text in enumerate(answers)], raising=False
    )
    line = ["generate", "c", "what is this?", "--rank", "an ox.", "--rank", "a llama."]
    assert cli.run([*line, "--json", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out.splitlines() == ["   0.00  an ox.", "  -0.50  a llama."]
    assert json.loads((tmp_path / "x.json").read_text())["ranked"] == [["an ox.", 0.0], ["a llama.", -0.5]]
    assert refused(capsys, *line, "--out", "x.png").endswith("give one of --out and --rank")


def test_generate_puts_the_nearest_examples_before_the_prompt(pipe, tmp_path, capsys, monkeypatch):
    asked, pool = [], tmp_path / "examples"
    monkeypatch.setattr(Pipe, "nearest", lambda self, picture, pool, shots: [2, 0][:shots], raising=False)
    monkeypatch.setattr(
        Pipe, "chat", lambda self, sample, **_: asked.append(sample) or SimpleNamespace(text="x"), raising=False
    )
    pool.mkdir()
    for name in "abc":
        Image.new("RGB", (8, 8)).save(pool / f"{name}.png")
        (pool / f"{name}.txt").write_text(f"this is {name}.\n")
    shown = tmp_path / "shown.png"
    Image.new("RGB", (8, 8)).save(shown)
    line = ["generate", "c", str(shown), "this is", "--examples", str(pool)]
    assert cli.run([*line, "--shots", "2"]) == 0
    assert asked == [[pool / "c.png", "this is c.", pool / "a.png", "this is a.", shown, "this is"]]
    monkeypatch.setattr(Pipe, "nearest", lambda self, picture, pool, shots: range(len(pool)))
    assert cli.run([*line[:2], str(pool / "b.png"), *line[3:]]) == 0
    assert [piece.name for piece in asked[1] if isinstance(piece, Path)] == ["a.png", "c.png", "b.png"]  # not its own
    assert "chosen by the last picture of the prompt" in refused(capsys, *line[:2], "this is", *line[4:])
    assert "has no pictures; name a folder" in refused(capsys, *line[:-1], str(tmp_path / "nowhere"))
    assert (
        refused(capsys, *line, "--shots", "5")
        == f"--shots 5: {pool} has 3 pictures beside the prompt's own; give 0 to 3"
    )
    asked.clear()
    assert cli.run(line) == 0 and len(asked[0]) == 2 * 3 + 2  # all that there are, where there are fewer than four
    (pool / "a.txt").write_text(" ")
    assert refused(capsys, *line) == f"{pool / 'a.txt'} is empty; write the text of its picture into it"
    (pool / "a.txt").write_bytes("naïve".encode("latin-1"))
    assert f"{pool / 'a.txt'} is not UTF-8 text" in refused(capsys, *line)
    (pool / "b.txt").unlink()
    assert f"b.png has no text; write it into {pool / 'b.txt'}" in refused(capsys, *line)


def test_generate_refuses_what_it_cannot_write_or_find(pipe, tmp_path, capsys):
    assert "should end in .png" in refused(capsys, "generate", "c", "a llama", "--out", str(tmp_path / "x.exe"))
    assert "there is no checkpoint folder" in refused(capsys, "generate", "nowhere", "a llama")
    for option in ("--steps", "--guidance"):
        assert "are for drawing one picture: add --out FILE" in refused(capsys, "generate", "c", "a llama", option, "2")


def test_evaluate_lists_tasks(tmp_path, capsys):
    assert cli.run(["evaluate", "--list", "--json", str(tmp_path / "x.json")]) == 0
    shown = capsys.readouterr().out
    listed = json.loads((tmp_path / "x.json").read_text())
    assert list(listed) == list(tasks.TASKS)
    assert listed["caption"]["trained"] and listed["form"]["trained"] and not listed["edit"]["trained"]
    assert all(name in shown for name in listed) and "not trained yet" in shown
    assert cli.run(["evaluate", str(cli.measure.CHECKPOINT), "--list", "--json", str(tmp_path / "y.json")]) == 0
    of_base = json.loads((tmp_path / "y.json").read_text())  # forms of answers are the adapter's
    assert of_base["vqa"]["trained"] and not of_base["form"]["trained"]


@pytest.fixture
def measured(pipe, monkeypatch):
    def evaluate(pipe, task, split, n, seed, shots):
        _, split, n, _ = tasks.check(task, split, n, shots)
        of_shots = {} if shots is None else {"shots": shots}
        return tasks.Result(task, split, n, seed, 0.5, 0.1, 0.2, 0.9, {"interval": [0.4, 0.6], **of_shots})

    monkeypatch.setattr(tasks, "evaluate", evaluate)
    monkeypatch.setattr(tasks, "trained_on", lambda checkpoint: {"names"})
    monkeypatch.setattr(report, "weights_of", lambda checkpoint: {"weights": "abc"})


def test_evaluate_writes_the_contract(measured, tmp_path, capsys):
    out = tmp_path / "x.json"
    line = [
        "evaluate",
        "c",
        "--task",
        "caption",
        "--split",
        "new-drawing",
        "--limit",
        "12",
        "--seed",
        "9",
        "--json",
        str(out),
    ]
    assert cli.run(line) == 0
    result = json.loads(out.read_text())
    assert {name: result[name] for name in ("task", "split", "n", "seed", "score", "chance", "blind", "upper_bound")} == {
        "task": "caption", "split": "new-drawing", "n": 12, "seed": 9, "score": 0.5, "chance": 0.1, "blind": 0.2, "upper_bound": 0.9,
    }  # fmt: skip
    assert {"details", "command", "commit", "preset"} <= set(result)
    assert "caption (new-drawing): 50.0%" in capsys.readouterr().out


def test_evaluate_measures_only_what_was_trained(measured, capsys):
    assert (
        "task 'vqa' is not trained yet in c: no training record of it names 'questions' or 'conversations'"
        in refused(capsys, "evaluate", "c", "--task", "vqa")
    )
    assert cli.run(["evaluate", "c", "--task", "few-shot-names", "--shots", "1"]) == 0


def test_evaluate_refuses_more_shots_than_the_context_holds(pipe, capsys, monkeypatch):
    monkeypatch.setattr(tasks, "trained_on", lambda checkpoint: {"names"})
    monkeypatch.setattr(report, "weights_of", lambda checkpoint: {})
    config = SimpleNamespace(name="emu-nano", llm=SimpleNamespace(context=64))
    monkeypatch.setattr(Pipe, "model", SimpleNamespace(config=config, device=torch.device("cpu")))
    processor = SimpleNamespace(special={}, image_size=32, n_image=4, encode=str.split)
    monkeypatch.setattr(Pipe, "processor", processor)
    error = refused(capsys, "evaluate", "c", "--task", "few-shot-names", "--shots", "8", "--limit", "2")
    assert error.startswith("--shots 8 makes ") and error.endswith("and this model reads 64; use fewer shots")


def test_evaluate_all_and_report(measured, tmp_path):
    out, page = tmp_path / "results.json", tmp_path / "README.md"
    assert cli.run(["evaluate", "c", "--all", "--limit", "5", "--json", str(out)]) == 0
    collected = json.loads(out.read_text())
    first = ["caption", "scene-caption", "text-to-image", "scene-to-image", "autoencode"]
    assert list(dict.fromkeys(result["task"] for result in collected["results"])) == [*first, "few-shot-names"]
    assert [result["details"].get("shots") for result in collected["results"]][-2:] == [1, 4]
    page.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    for result in collected["results"]:
        result["details"] |= {"top5": 0.5, "top5_interval": [0, 1], "top5_chance": 0.02, "top5_blind": 0.02}
    out.write_text(json.dumps(collected))
    assert cli.run(["report", str(out), str(page), "--json", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text()) == {"written": [str(page)]}
    assert report.table(collected) in page.read_text()
    assert (
        "new concepts, 4 examples of each" in page.read_text() and "new concepts, 1 example of each" in page.read_text()
    )
    page.write_text("<!-- results:begin -->\n<!-- results:end -->\n<!-- bench:begin -->\n<!-- bench:end -->\n")
    assert cli.run(["report", str(out), str(page), "--bench", str(tmp_path / "none.json")]) == cli.BAD_INPUT
    assert report.table(collected) not in page.read_text()  # it is left alone where an input is missing
    assert cli.run(["evaluate", "c", "--all", "--limit", "5", "--shots", "2", "--json", str(out)]) == 0
    collected = json.loads(out.read_text())
    assert [result["details"].get("shots") for result in collected["results"]][-2:] == [None, 2]


def test_bench_runs_the_rows_that_were_asked_for(monkeypatch, tmp_path, capsys):
    rows = {
        name: (about, None) for name, about in (("guidance", "one pass"), ("packing", "rows"), ("data-wait", "logs"))
    }
    module(
        monkeypatch, "minemu.bench", ROWS=rows, run_bench=lambda names, keep: keep({"machine": "m", "rows": dict.fromkeys(names)})
    )  # fmt: skip
    out = tmp_path / "x.json"
    assert cli.run(["bench", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["rows"]) == list(rows) and {"machine", "command", "commit", "versions"} <= set(found)
    assert cli.run(["bench", "packing", "guidance", "--json", str(out)]) == 0
    assert list(json.loads(out.read_text())["rows"]) == ["packing", "guidance"]
    assert cli.run(["bench", "--list", "--json", str(out)]) == 0 and "one pass" in capsys.readouterr().out
    assert json.loads(out.read_text())["data-wait"] == "logs"
    assert "unknown bench row 'guidence': did you mean" in refused(capsys, "bench", "packing", "guidence")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate c --all --split seen", "--split seen is of one task, and --all measures each on each of its splits; leave one out"),
        ("bench --full-scale guidance", "--full-scale has no rows: it runs emu-14b as a whole; leave the others out"),
        ("bench --full-scale --list", "--full-scale has no rows: it runs emu-14b as a whole; leave the others out"),
    ],
)  # fmt: skip
def test_options_that_would_be_ignored_are_refused(line, message, capsys):
    assert refused(capsys, *line.split(" ")) == message


def test_results_name_the_code_that_began_to_measure(measured, tmp_path, monkeypatch):
    """It may be changed on disk in the minutes that measuring takes."""
    commits = iter(["began", "later", "later still"])
    monkeypatch.setattr(report, "commit", lambda: next(commits))
    out = tmp_path / "results.json"
    assert cli.run(["evaluate", "c", "--all", "--limit", "5", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["commit"] == "began"
    assert json.loads(out.read_text())["command"] == f"minemu evaluate c --all --limit 5 --json {out}"


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"minemu {minemu.__version__}\n"
