"""Text and pictures of every kind -> tensors; and one clear line for those that cannot be."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import minemu
from minemu.errors import MinemuError
from minemu.pipeline import EmuPipeline
from minemu.processor import CLIP_MEAN, CLIP_STD, EmuProcessor, is_picture_path, read_picture
from minemu.prompts import DESCRIBE
from minemu.sequence import Special, Video
from minemu.tokenizer import train_tokenizer

CORPUS = ["a big llama on a green background, Twemoji style", "two llamas above a kick scooter", "three pandas."]


@pytest.fixture(scope="module")
def processor():
    return EmuProcessor(train_tokenizer(CORPUS, 400), image_size=16, n_image=4)


def red(size=(40, 30), mode="RGB"):
    return Image.new("RGB", size, (200, 30, 30)).convert(mode)


def test_the_batch_of_the_documentation(processor):
    batch = processor([["two dogs.", red(), "three pandas.", red()], [red()]], return_tensors="pt")
    assert batch["images"].shape == (3, 3, 16, 16)
    assert (batch["input_ids"] == processor.ids.image).sum(1).tolist() == [8, 4]
    assert batch["input_ids"][:, 0].tolist() == [processor.ids.bos] * 2
    assert batch["attention_mask"].sum(1).tolist()[1] == 1 + 6


def test_pixels_are_clip_normalised(processor):
    pixels = processor.preprocess(red())
    assert torch.allclose(pixels[:, 3, 3] * CLIP_STD + CLIP_MEAN, torch.tensor([200, 30, 30]) / 255, atol=1e-6)


def test_a_picture_is_resized_by_bicubic_interpolation(processor):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8))
    assert np.array_equal(processor.pixels(picture), picture.resize((16, 16), Image.Resampling.BICUBIC))


@given(text=st.text(max_size=40))
@settings(max_examples=60)
def test_any_text_comes_back(processor, text):
    text = " ".join(text.split())
    if any(token in text for token in processor.special) or "▁" in text:
        return
    assert processor.decode(processor.encode(text)) == text


@pytest.mark.parametrize("token", ["[IMG]", "[/IMG]", "<image>", "[PAD]", "<s>", "</s>"])
def test_a_special_token_in_the_text_is_refused(processor, token):
    with pytest.raises(MinemuError) as error:
        processor([[f"a dog {token} here"]])
    assert f"the text contains the special token '{token}'" in str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F"])
def test_every_kind_of_picture_is_read(mode):
    picture = red().convert("L").convert("I").convert(mode) if mode in ("I;16", "I", "F") else red(mode=mode)
    read = read_picture(picture)
    assert read.mode == "RGB"
    assert read.size == (40, 30)


def test_alpha_lies_on_white_and_exif_turns_the_picture(tmp_path):
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    assert read_picture(clear).getpixel((5, 5)) == (255, 255, 255)
    palette = Image.new("P", (10, 10), 0)
    palette.info["transparency"] = 0
    assert read_picture(palette).getpixel((5, 5)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    red((40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (30, 40)


def test_a_text_too_long_inside_a_png_is_a_broken_picture(tmp_path):
    """PIL raises a plain ValueError there, as for a large XMP block."""
    text = PngInfo()
    text.add_text("comment", "x" * (2 << 20), zip=True)
    red().save(tmp_path / "long.png", pnginfo=text)
    with pytest.raises(MinemuError, match="long.png cannot be read as a picture"):
        read_picture(tmp_path / "long.png")


def test_sixteen_bit_grey_keeps_its_shades():
    ramp = Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16))
    values = np.asarray(read_picture(ramp))[..., 0]
    assert values.min() == 0 and values.max() == 255 and len(np.unique(values)) > 200
    dark = Image.fromarray(np.full((16, 16), 257 * 10, dtype=np.uint16))
    assert read_picture(dark).getpixel((0, 0)) == (10, 10, 10)


def test_bad_pictures_are_named(tmp_path, monkeypatch):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:3000])
    (tmp_path / "text.png").write_text("not a picture")
    red((1, 1)).save(tmp_path / "dot.png")
    cases = {
        "cut.png": "cannot be read as a picture",
        "text.png": "is no picture; give one of .png, .jpg",
        "dot.png": "is only 1 x 1 pixels",
        "none.png": "does not exist",
    }
    for name, message in cases.items():
        with pytest.raises(MinemuError) as error:
            read_picture(tmp_path / name)
        assert message in str(error.value) and name in str(error.value)
        assert "\n" not in str(error.value)
    monkeypatch.setattr("minemu.processor.MAX_PIXELS", 1000)
    with pytest.raises(MinemuError, match="40 x 30 pixels, more than 1,000; make it smaller"):
        read_picture(red())


def test_what_is_large_to_pil_alone_is_read_without_a_warning(tmp_path, monkeypatch):
    red().save(tmp_path / "red.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 40 x 30 is more, and less than twice as many
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(tmp_path / "red.png").close()
    assert read_picture(tmp_path / "red.png").size == (40, 30)  # warnings are errors here
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(MinemuError, match="red.png is larger than 100,000,000 pixels; make it smaller first"):
        read_picture(tmp_path / "red.png")


@given(data=st.binary(max_size=300), cut=st.integers(0, 200))
@settings(max_examples=60)
def test_broken_files_never_raise_anything_else(tmp_path_factory, data, cut):
    whole = io.BytesIO()
    red().save(whole, "PNG")
    path = tmp_path_factory.mktemp("broken") / "picture.png"
    path.write_bytes(whole.getvalue()[:cut] + data)
    try:
        assert read_picture(path).mode == "RGB"
    except MinemuError as error:
        assert "picture.png" in str(error)


def test_calls_that_make_no_sense(processor):
    with pytest.raises(MinemuError, match="give a list of samples"):
        processor("a dog")
    with pytest.raises(MinemuError, match="give a list of samples"):
        processor(Video([red()]))
    with pytest.raises(MinemuError, match="a sample is a NoneType; give a list of text and pictures"):
        processor([None])
    with pytest.raises(MinemuError, match="each sample is a list of its own: .* in two pairs of brackets"):
        processor([Image.new("RGB", (16, 16)), "what is this?"])
    with pytest.raises(MinemuError, match="a sample holds a int; give text, PIL pictures or paths"):
        processor([["a", 3]])
    with pytest.raises(MinemuError, match="padding_side='up' is not one of left, right"):
        processor([["a"]], padding_side="up")
    with pytest.raises(MinemuError, match="return_tensors='np' is not supported"):
        processor([["a"]], return_tensors="np")
    with pytest.raises(MinemuError, match="would cut a picture in two"):
        processor([["a", red()]], max_length=5)
    first, second = processor([["a", red(), "b"]]), processor([["a", red(), "b", red()]])
    cut = processor([["a", red(), "b", red()]], max_length=first["input_ids"].shape[1])
    assert torch.equal(cut["input_ids"], first["input_ids"]) and len(second["images"]) == 2
    assert torch.equal(cut["images"], first["images"])  # a picture that is cut off goes with its place


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = EmuProcessor.from_pretrained(tmp_path)
    assert again.ids == processor.ids and again.encode("two llamas") == processor.encode("two llamas")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(MinemuError, match="tokenizer.json is not valid JSON"):
        EmuProcessor.from_pretrained(tmp_path)
    (tmp_path / "processor.json").unlink()
    with pytest.raises(MinemuError, match="processor.json is missing"):
        EmuProcessor.from_pretrained(tmp_path)
    with pytest.raises(MinemuError, match="there is no checkpoint folder .*nowhere"):
        EmuProcessor.from_pretrained(tmp_path / "nowhere")


# ---- clips -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    """Twelve frames that grow darker, as a GIF and as a folder, and a still."""
    frames = [Image.new("RGB", (16, 16), (20 * k, 0, 0)) for k in range(12, 0, -1)]
    for name in ("clip.gif", "clip.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number:02}.png")
    frames[0].save(tmp_path / "still.gif")
    return tmp_path


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "frames"])
def test_a_path_to_what_moves_is_a_video(processor, clip, name):
    shown = processor([[clip / name, "what moves?"]])
    taken = [clip / "frames" / f"{number:02}.png" for number in (0, 2, 3, 5, 6, 8, 9, 11)]
    given = processor([[Video(taken), "what moves?"]])
    assert shown["input_ids"].tolist() == given["input_ids"].tolist() and shown["images"].shape[0] == 8
    torch.testing.assert_close(shown["images"], given["images"], atol=0.05, rtol=0)
    if name != "frames":  # without a suffix a text is a text
        assert processor([[str(clip / name), "what moves?"]])["images"].equal(shown["images"])
    assert processor.as_text([clip / name]).count("<image>") == 8 * 4


def test_a_video_of_frames_is_made_with_what_the_package_exports():
    assert minemu.Video is Video and "Video" in minemu.__all__


def test_a_still_is_one_picture_and_a_missing_film_is_told(processor, clip):
    assert processor([[clip / "still.gif"]])["images"].shape[0] == 1
    for path in ("none.mp4", clip / "none.mp4"):
        with pytest.raises(MinemuError, match="the clip .*none.mp4 does not exist; check the path"):
            processor([[path, "what moves?"]])
    with pytest.raises(MinemuError, match="none.gif does not exist; check the path"):
        processor([[clip / "none.gif"]])


class Teller(EmuPipeline):
    """A pipeline that notes what it is asked for."""

    def __init__(self, processor):
        self.processor, self.decoder = processor, object()

    def chat_batch(self, samples, **settings):
        self.seen, self.settings = self.processor(samples)["images"].shape[0], settings
        return [type("Said", (), {"text": "it moves"})]

    def imagine(self, samples):
        raise StopIteration("a next picture is asked for")


def test_a_clip_is_captioned_like_a_picture(processor, clip):
    pipe = Teller(processor)
    for shown, pictures in (
        (clip / "clip.gif", 8),
        (str(clip / "clip.webp"), 8),
        (str(clip / "frames"), 8),
        (Video([red(), red(), red()]), 3),
        (clip / "still.gif", 1),
        (red(), 1),
    ):
        assert pipe.caption(shown, max_new_tokens=3) == "it moves" and pipe.seen == pictures
        assert pipe.settings == {**DESCRIBE, "max_new_tokens": 3}
    with pytest.raises(MinemuError, match="nowhere does not exist; check the path"):
        pipe.caption("nowhere")


def test_a_clip_alone_is_not_rebuilt(processor, clip):
    for shown in (clip / "clip.gif", str(clip / "clip.gif"), Video([red()])):
        with pytest.raises(StopIteration, match="a next picture"):
            Teller(processor)([shown])


def test_a_sentence_that_ends_like_a_file_is_a_sentence(tmp_path):
    assert is_picture_path("cat.png") and not is_picture_path(": open cat.png") and not is_picture_path("cat")
    (tmp_path / "my cat.png").write_bytes(b"")
    assert is_picture_path(str(tmp_path / "my cat.png")) and is_picture_path("cat.mp4")


def test_a_forgotten_bracket_is_told_of_whatever_the_picture_is(processor):
    for item in ("dog.png", Path("dog.png"), Special("[IMG]"), red()):
        with pytest.raises(MinemuError, match="each sample is a list of its own"):
            processor(["what is this?", item])
    for length in (0, -1):
        with pytest.raises(MinemuError, match=f"max_length={length} leaves nothing of a sample"):
            processor([["two dogs."]], max_length=length)


def test_the_same_grey_of_32_bits_is_the_same_whatever_is_beside_it():
    """White is 65535 where anything is lighter than 255: not what happens to be the lightest of a picture."""
    for value, others, seen in ((10, 10, 10), (10, 255, 10), (600, 600, 2), (600, 65535, 2)):
        grey = np.full((16, 16), others, dtype=np.int32)
        grey[0, 0] = value
        assert read_picture(Image.fromarray(grey, mode="I")).getpixel((0, 0)) == (seen,) * 3
