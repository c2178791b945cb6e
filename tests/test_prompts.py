"""Prompts as published: golden strings, the ids behind them, and what no conversation may be."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from minemu import prompts
from minemu.chat import CHAT_TEMPLATES, user_message
from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor
from minemu.prompts import EMU_I_IMAGE, PROMPTS, dialogue, few_shot
from minemu.sequence import Video
from minemu.tokenizer import SPECIAL_TOKEN_SETS, load_tokenizer
from minemu.visual_decoder import VisualDecoder

GOLDEN = Path(__file__).parent / "golden" / "emu1"
IMG = Image.new("RGB", (8, 8), "red")
SLOTS = "[IMG]<image><image>[/IMG]"


def processor_of(name, n_frame=None):
    return EmuProcessor(load_tokenizer(GOLDEN, SPECIAL_TOKEN_SETS[name]), 8, 2, n_frame)


EMU_I, CHAT = processor_of("Emu-I"), processor_of("Emu2-Chat", n_frame=1)


def user(*parts):
    return {"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]}


def assistant(text):
    return {"role": "assistant", "content": text}


PICTURE, VIDEO = {"type": "image", "image": IMG}, {"type": "video", "video": [IMG, IMG]}
IMAGE_SYSTEM = (
    "You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I provide it to you. "
    "Please answer my questions based on the given image."
)
VIDEO_SYSTEM = (
    "You are a helpful assistant and you will be presented with a video consisting of multiple chronological images: "
    "[IMG]ImageContent[/IMG]. You will be able to see the video after I provide it to you. "
    "Please answer my questions based on the given video."
)
CHAT_SYSTEM = "You are a helpful assistant, dedicated to delivering comprehensive and meticulous responses."
ACADEMIC_SYSTEM = "You are a helpful assistant, dedicated to provide concise and efficient answers."

CONVERSATIONS = {
    "emu-i picture": (
        EMU_I, [user(PICTURE, "how many llamas?")], {"add_generation_prompt": True},
        f"{IMAGE_SYSTEM} [USER]: {SLOTS} how many llamas? [ASSISTANT]:",
    ),
    "emu-i words": (EMU_I, [user("hello")], {"add_generation_prompt": True}, "[USER]: hello [ASSISTANT]:"),
    "emu-i video": (
        EMU_I, [user(VIDEO, "what happens?")], {"add_generation_prompt": True},
        f"{VIDEO_SYSTEM} [USER]: {SLOTS}{SLOTS} what happens? [ASSISTANT]:",
    ),
    "emu-i turns": (
        EMU_I, [user(PICTURE, "who?"), assistant("a dog."), user("where?")], {"add_generation_prompt": True},
        f"{IMAGE_SYSTEM} [USER]: {SLOTS} who? [ASSISTANT]: a dog.</s> [USER]: where? [ASSISTANT]:",
    ),
    "emu-i begun answer": (
        EMU_I, [user(PICTURE, "who?"), assistant("the answer is:")], {"continue_final_message": True},
        f"{IMAGE_SYSTEM} [USER]: {SLOTS} who? [ASSISTANT]: the answer is:",
    ),
    "emu-i training": (
        EMU_I, [user(PICTURE, "who?"), assistant("a dog.")], {},
        f"{IMAGE_SYSTEM} [USER]: {SLOTS} who? [ASSISTANT]: a dog.</s>",
    ),
    "emu2-chat picture": (
        CHAT, [user(PICTURE, "how many?")], {"add_generation_prompt": True},
        f"{CHAT_SYSTEM} [USER]: {SLOTS} how many? [ASSISTANT]:",
    ),
    "emu2-chat turns": (
        CHAT, [user("who?", PICTURE), assistant("a dog."), user("where?")], {"add_generation_prompt": True},
        f"{CHAT_SYSTEM} [USER]: who? {SLOTS} [ASSISTANT]: a dog.</s>[USER]: where? [ASSISTANT]:",
    ),
    "emu2-chat video": (
        CHAT, [user(VIDEO, "what happens?")], {"add_generation_prompt": True},
        f"{CHAT_SYSTEM} [USER]: [VIDEO][IMG][gIMG][/IMG][IMG][gIMG][/IMG] what happens? [ASSISTANT]:",
    ),
    "emu2-chat grounding": (
        CHAT, [user(PICTURE, "where is the dog?")], {"add_generation_prompt": True, "grounding": True},
        f"{ACADEMIC_SYSTEM} [USER]: {SLOTS} where is the dog? [ASSISTANT]:<grounding>",
    ),
    "emu2-chat academic": (
        CHAT, [{"role": "system", "content": prompts.EMU2_ACADEMIC}, user("who?")], {"add_generation_prompt": True},
        f"{ACADEMIC_SYSTEM} [USER]: who? [ASSISTANT]:",
    ),
    "a system message of one's own": (
        CHAT, [{"role": "system", "content": "Be brief."}, user("who?")], {"add_generation_prompt": True},
        "Be brief. [USER]: who? [ASSISTANT]:",
    ),
    "the other model's": (
        CHAT, [user(PICTURE, "who?")], {"chat_template": "emu-i"}, f"{IMAGE_SYSTEM} [USER]: {SLOTS} who?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_as_published(name):
    processor, messages, settings, golden = CONVERSATIONS[name]
    assert processor.apply_chat_template(messages, **settings) == golden
    assert processor.apply_chat_template([messages, messages], **settings) == [golden, golden]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_ids_are_those_of_the_legacy_tokenisation_of_the_string(name):
    """The published way: cut at special tokens, strip, and let each piece begin with a word-start space."""
    processor, messages, settings, golden = CONVERSATIONS[name]
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **settings)
    ids = [1]
    for part in re.split(f"({'|'.join(map(re.escape, processor.special))})", golden):
        ids += [processor.special[part]] if part in processor.special else processor.encode(part)
    assert batch["input_ids"][0].tolist() == ids
    pictures = golden.count(SLOTS)
    assert len(batch.get("images", ())) == pictures and len(batch.get("frames", ())) == golden.count("[gIMG]")


TASKS = {
    "emu-caption": ({"image": IMG}, f"{SLOTS} describing the image in detail. the image shows"),
    "emu-vqa": (
        {"image": IMG, "caption": "a red dog", "question": "what colour?"},
        f"{SLOTS} a picture of a red dog. based on the picture, what colour? short answer:",
    ),
    "emu-i-caption": (
        {"image": IMG},
        f"{IMAGE_SYSTEM} [USER]: {SLOTS} please provide an accurate and concise description of the given image. "
        "[ASSISTANT]: the image depicts a photo of",
    ),
    "emu-i-vqa": (
        {"image": IMG, "question": "what colour?"},
        f"{IMAGE_SYSTEM} [USER]: {SLOTS} based on the content of the image and common sense, please provide an accurate answer "
        "consisting of only one word or phrase. what colour? [ASSISTANT]: the answer is:",
    ),
    "emu-i-answerable": (
        {"image": IMG, "question": "what colour?"},
        f"{IMAGE_SYSTEM} [USER]: {SLOTS} based on the content of the image and common sense, please provide an accurate answer "
        "consisting of only one word or phrase. what colour?, is the answer known? [ASSISTANT]:",
    ),
    "emu-i-video": (
        {"video": [IMG, IMG], "question": "what happens?"},
        f"{VIDEO_SYSTEM} [USER]: {SLOTS}{SLOTS} what happens? [ASSISTANT]:",
    ),
    "emu2-vqa": (
        {"image": IMG, "question": "what colour?"},
        f"{SLOTS} based on the picture, answer in one word or phrase. what colour? short answer:",
    ),
    "emu2-few-shot": (
        {"image": IMG, "question": "what colour?"},
        f"{SLOTS} based on the picture, what colour? short answer:",
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_task_prompts_as_published(name):
    values, golden = TASKS[name]
    assert EMU_I.as_text(PROMPTS[name].fill(**values)) == golden


def test_a_picture_may_be_a_path(tmp_path):
    IMG.save(tmp_path / "red.png")
    path = str(tmp_path / "red.png")
    prompt = PROMPTS["emu2-vqa"].fill(image=path, question="who?")
    messages = [user({"type": "image", "path": path}, "who?")]
    assert EMU_I([prompt])["images"].shape == (1, 3, 8, 8)
    assert EMU_I.apply_chat_template(messages, tokenize=True)["images"].shape == (1, 3, 8, 8)


def test_places_are_seen_when_special_tokens_are_kept():
    row = [CHAT.special["<patch_index_0007>"], *CHAT.encode("two dog")]
    assert CHAT.decode(row) == "two dog" and "<patch_index_0007>" in CHAT.decode(row, skip_special_tokens=False)


def test_few_shot_and_dialogue_as_published():
    shown = few_shot([(IMG, "who?", "a dog"), (IMG, "where?", "here")], IMG, "what colour?")
    assert EMU_I.as_text(shown) == (
        f"{SLOTS} based on the picture, who? short answer: a dog. {SLOTS} based on the picture, where? short answer: here. "
        f"{SLOTS} based on the picture, what colour? short answer:"
    )
    assert EMU_I.as_text(dialogue(IMG, [("is it a dog", "yes")], "is it red")) == (
        f"{IMAGE_SYSTEM} [USER]: {SLOTS}</s> [USER]: is it a dog? [ASSISTANT]: yes.</s> [USER]: is it red? [ASSISTANT]:"
    )
    assert len([item for item in shown if isinstance(item, str)]) == 3  # neighbouring texts are read as one


def test_decoding_settings_as_published():
    beams = {"num_beams": 5}
    assert PROMPTS["emu-i-caption"].decoding == {
        **beams,
        "max_new_tokens": 20,
        "min_new_tokens": 8,
        "length_penalty": -1,
    }
    assert PROMPTS["emu-i-vqa"].decoding == {**beams, "max_new_tokens": 20, "min_new_tokens": 1, "length_penalty": -1}
    assert PROMPTS["emu2-vqa"].decoding == {**beams, "max_new_tokens": 10, "min_new_tokens": 1, "length_penalty": -1}
    assert PROMPTS["emu-i-video"].decoding["length_penalty"] == 1
    assert CHAT_TEMPLATES["emu-i"].decoding == {**beams, "max_new_tokens": 128, "length_penalty": 1}
    assert CHAT_TEMPLATES["emu2-chat"].decoding == {**beams, "max_new_tokens": 1024, "length_penalty": 2}


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (" two. [IMG] based on the picture", "two"),
        ("two llamas\nand more", "two llamas"),
        ("3.5 metres. It is", "3.5 metres"),
        ('"Paris".', "Paris"),
        ("yes, it is.", "yes, it is"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_answers_are_cut_as_published(said, answer):
    assert PROMPTS["emu2-vqa"].clean(said) == answer
    assert PROMPTS["emu-i-caption"].clean(said) == answer.lower()


def test_an_answer_that_is_one_of_two():
    torch.manual_seed(0)
    config = EmuConfig.preset("emu-nano").override({"llm.words": 420, "llm.special_tokens": 6})
    processor = EmuProcessor.of(config, GOLDEN)
    prompt = PROMPTS["emu-i-answerable"]
    batch = processor([prompt.fill(image=IMG, question="who?")])
    ids = Emu(config).eval().generate(**batch, num_beams=2, prefix_allowed_tokens_fn=processor.only(prompt.choices))
    assert processor.decode(ids[0]) in ("yes.", "no.")


@pytest.mark.parametrize(
    ("messages", "settings", "line"),
    [
        ([], {}, "a conversation needs at least one message"),
        ([user("a"), assistant("b")], {"add_generation_prompt": True}, "does not end with the user: leave its last answer out"),
        (["hello"], {}, 'message 0 is not of the form {"role": "user", "content": ...}'),
        ([{"role": "user"}], {}, 'message 0 is not of the form {"role": "user", "content": ...}'),
        ([user("a"), user("b")], {}, "message 1 has role 'user' where 'assistant' should follow"),
        ([{"role": "system", "content": "a"}, assistant("b")], {}, "message 1 has role 'assistant' where 'user' should"),
        ([user("a"), {"role": "bot", "content": "b"}], {}, "message 1 has role 'bot' where 'assistant' should follow"),
        ([user({"type": "audio", "audio": 1})], {}, "a part of a message has type 'audio'; use text, image or video"),
        ([user({"type": "image"})], {}, "a part of type 'image' has no image: write {'type': 'image', 'image': ...}"),
        ([user("a")], {"continue_final_message": True}, "continue_final_message needs a last message of the assistant"),
        ([user("a")], {"add_generation_prompt": True, "continue_final_message": True}, "choose one"),
        ([user("a")], {"chat_template": "emu2-chta"}, "unknown chat template 'emu2-chta': did you mean 'emu2-chat'?"),
        ([user("a")], {"chat_template": "emu-i", "grounding": True}, "grounding=True is for Emu2-Chat"),
        ({"role": "user", "content": "a"}, {}, "a conversation is a list of messages: put this one in brackets"),
        ([{"role": "user", "content": None}], {}, "the content of a message is a NoneType; give text, or a list of parts"),
        ([user({"type": "text", "text": None})], {}, "a part of type 'text' holds a NoneType; give a text"),
        ([user({"type": "video", "video": IMG})], {}, "a video is a list of pictures, a Video or a path, not a"),
        ([user("a [ASSISTANT]: b")], {"tokenize": True}, "the text contains the special token '[ASSISTANT]'"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_one_clear_line(messages, settings, line):
    with pytest.raises(MinemuError) as error:
        CHAT.apply_chat_template(messages, **settings)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_base_models_have_no_chat_template_and_prompts_name_their_places():
    with pytest.raises(
        MinemuError, match=r"this tokenizer has no \[USER\] token: chat templates are Emu-I's and Emu2-Chat's"
    ):
        processor_of("Emu").apply_chat_template([user("a")])
    with pytest.raises(MinemuError, match="the prompt has no place for 'queston': did you mean 'question'"):
        PROMPTS["emu2-vqa"].fill(image=IMG, queston="who?")
    with pytest.raises(MinemuError, match="the prompt also needs question; give it as question=..."):
        PROMPTS["emu2-vqa"].fill(image=IMG)


def test_a_long_video_is_sampled_at_equal_distances():
    assert Video.sampled(list(range(100)), 4).frames == [12, 37, 62, 87]
    assert Video.sampled([1, 2, 3], 8).frames == [1, 2, 3]
    long = {"type": "video", "video": [IMG] * 50}
    assert EMU_I.apply_chat_template([user(long)]).count(SLOTS) == 8
    assert CHAT.apply_chat_template([user(long)]).count("[gIMG]") == 16
    assert EMU_I.as_text(PROMPTS["emu-i-video"].fill(video=[IMG] * 50, question="what?")).count(SLOTS) == 8


def test_a_clip_in_a_conversation_may_be_a_path(tmp_path):
    frames = [Image.new("RGB", (8, 8), (9 * k, 0, 0)) for k in range(20)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    for kind in ("video", "image"):  # what moves is a video, whatever it is called
        for path in (tmp_path / "clip.gif", str(tmp_path / "clip.gif")):
            asked = [user({"type": kind, kind: path}, "what moves?")]
            text = EMU_I.apply_chat_template(asked, add_generation_prompt=True)
            assert text.count(SLOTS) == 8 and text.startswith(
                "You are a helpful assistant and you will be presented with a video"
            )
            assert EMU_I.apply_chat_template(asked, tokenize=True)["images"].shape[0] == 8
            assert CHAT.apply_chat_template(asked).count("[gIMG]") == 16
    for clip in (tmp_path / "clip.gif", str(tmp_path / "clip.gif"), Video(frames)):
        sample = PROMPTS["emu-i-video"].fill(video=clip, question="what?")
        assert EMU_I.as_text(sample).count(SLOTS) == 8
    named = EMU_I.apply_chat_template([user({"type": "video", "path": tmp_path / "clip.gif"})])
    assert named == EMU_I.apply_chat_template([user({"type": "video", "video": tmp_path / "clip.gif"})])


def test_the_published_system_message_may_be_a_part():
    said = [
        EMU_I.apply_chat_template([{"role": "system", "content": content}, user("a")])
        for content in (EMU_I_IMAGE, [{"type": "text", "text": EMU_I_IMAGE}])
    ]
    assert said[0] == said[1] and "[IMG]ImageContent[/IMG]" in said[0]


def test_a_video_of_no_frames():
    with pytest.raises(MinemuError, match="a video without frames"):
        Video([])


def test_a_conversation_about_a_video_and_a_picture_is_answered():
    """Emu2-Chat in small: frames are pooled to fewer embeddings than the picture."""
    torch.manual_seed(0)
    sizes = {"llm.words": 420, "llm.special_tokens": 274, "llm.frame_slot": True, "llm.context": 1024}
    config = EmuConfig.preset("emu2-nano").override(sizes)
    processor, model = EmuProcessor.of(config, GOLDEN), Emu(config).eval()
    messages = [user(VIDEO, PICTURE, "what happens?"), assistant("a dog runs."), user("where?")]
    batch = processor.apply_chat_template(
        [messages] * 2, add_generation_prompt=True, tokenize=True, padding_side="left"
    )
    assert batch["frames"].shape == (4, 3, 32, 32) and batch["images"].shape == (2, 3, 32, 32)
    answers = model.generate(**batch, **{**CHAT_TEMPLATES["emu2-chat"].decoding, "max_new_tokens": 4})
    assert len(processor.batch_decode(answers)) == 2


def test_a_document_with_a_clip_encodes_its_frames_once(monkeypatch):
    sizes = {"llm.words": 420, "llm.special_tokens": 274, "llm.frame_slot": True, "llm.context": 1024}
    config = EmuConfig.preset("emu2-nano").override({**sizes, "objective.say_image": True})
    pipe = EmuPipeline(Emu(config), EmuProcessor.of(config, GOLDEN), VisualDecoder(config.decoder))
    encoded, encode = [], pipe.model.encode_images
    monkeypatch.setattr(
        pipe.model, "encode_images", lambda images, frames=False: encoded.append(frames) or encode(images, frames)
    )
    turns = iter([[5, pipe.model.ids.image_start], [pipe.model.ids.image_start], [6]])
    monkeypatch.setattr(pipe.model.llm, "generate", lambda **kwargs: torch.tensor([next(turns)]))
    pieces = pipe.continue_document(
        [Video([IMG, IMG]), IMG, "what happens?"], num_inference_steps=1, guidance_scale=1.0
    )
    assert [isinstance(piece, str) for piece in pieces] == [True, False, False, True]
    assert sorted(encoded) == [False, True]  # the picture, and the frames


def test_a_path_among_the_words_is_a_picture_as_everywhere_else():
    kinds = [
        part["type"]
        for part in user_message(["dog.png", Path("dog.png"), "what is this?", "what a picture.png shows"])["content"]
    ]
    assert kinds == ["image", "image", "text", "text"]
