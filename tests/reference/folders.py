"""The recorded weights as the folders of original files that they came from, vocabularies included.

The recorded prompts are known as token ids only; the vocabularies made here have one word for each of them.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from tests.reference.recorded import RELEASE, SECOND, THIRD, facts, tensors, unet3_file, unet_file, weights

EMPTY = 1
PROMPT, PRIOR_NEGATIVE, NEGATIVE = "p0 p1 p2 p3 p4", "n0 n1", "d0 d1 d2 d3 d4"
ROWS = {0: PROMPT, 2: PRIOR_NEGATIVE, 3: NEGATIVE}
"""Texts by the row of their recorded ids."""
THIRD_PROMPT = "p0 p1 p2 p3 p4 p0 p5"
"""The prompt of the newest generation; its negative prompts are recorded as words."""


def float32(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in file.items()}


def write_vocabulary(folder: Path, case: str, group: str) -> None:
    """A tokenizer.json that turns the texts into a group's recorded ids."""
    ids, mask = tensors(case)[f"{group}.ids"], tensors(case)[f"{group}.mask"].bool()
    frame = ids[EMPTY][mask[EMPTY]].tolist()
    vocabulary = {"<end>": frame[-1], "<pad>": int(ids[EMPTY][-1])}
    vocabulary |= {"<begin>": frame[0]} if len(frame) > 1 else {}
    for row, text in ROWS.items():
        if row < len(ids):
            inside = ids[row][mask[row]].tolist()[len(frame) - 1 : -1]
            vocabulary |= dict(zip(text.split(), inside, strict=True))
    single = "<begin> $A <end>" if len(frame) > 1 else "$A <end>"
    _save_vocabulary(folder, vocabulary, single, 77)


def _save_vocabulary(folder: Path, vocabulary: dict[str, int], single: str, length: int) -> None:
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, vocabulary[name]) for name in ("<begin>", "<end>") if name in vocabulary]
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "model_max_length": length}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_first(root: Path) -> Path:
    """The folder of the first release."""
    root.mkdir(parents=True)
    torch.save(float32(unet_file(RELEASE)), root / "Kandinsky-2-0.pt")
    torch.save(float32(unet_file(RELEASE, True)), root / "Kandinsky-2-0-inpainting.pt")
    torch.save({"state_dict": float32(weights(RELEASE, "vae"))}, root / "vae.ckpt")
    for name, group in (("text_encoder1", "text1"), ("text_encoder2", "text2")):
        write_vocabulary(root / name, RELEASE, group)
        torch.save(float32(weights(RELEASE, name)), root / name / "pytorch_model.bin")
    return root


def write_second(root: Path) -> Path:
    """The folder of the second release."""
    root.mkdir(parents=True)
    torch.save(float32(unet_file(SECOND)), root / "decoder_fp16.ckpt")
    torch.save(float32(unet_file(SECOND, True)), root / "inpainting_fp16.ckpt")
    torch.save(float32(weights(SECOND, "movq")), root / "movq_final.ckpt")
    torch.save(float32(weights(SECOND, "prior")), root / "prior_fp16.ckpt")
    stats = float32(weights(SECOND, "clip_stats"))
    torch.save((stats["mean"], stats["std"]), root / "ViT-L-14_stats.th")
    torch.save(float32(weights(SECOND, "clip")), root / "ViT-L-14.pt")
    write_vocabulary(root / "text_encoder", SECOND, "text")
    torch.save(float32(weights(SECOND, "text_encoder")), root / "text_encoder" / "pytorch_model.bin")
    write_vocabulary(root / "tokenizer", SECOND, "clip")
    return root


def write_third(root: Path) -> Path:
    """The folder of the newest release."""
    encoder = root / "weights" / "flan_ul2_encoder"
    write_third_encoder(encoder)
    for name, inpainting in (("", False), ("_flash", False), ("_inpainting", True)):
        torch.save(unet3_file(inpainting), root / "weights" / f"kandinsky3{name}.pt")
        torch.save(weights(THIRD, "t5_projection"), encoder / f"projection{name}.pt")
    torch.save(weights(THIRD, "movq"), root / "weights" / "movq.pt")
    return root


def write_third_first(root: Path) -> Path:
    """The folder of the release before it: projections within the U-Net's file, the encoder as published."""
    write_third_encoder(root / "google" / "flan-ul2")
    (root / "weights").mkdir()
    embedded = {f"t5.{name}": tensor for name, tensor in weights(THIRD, "t5_projection").items()}
    torch.save({**unet3_file(), "projections": embedded}, root / "weights" / "kandinsky3.pt")
    torch.save(weights(THIRD, "movq"), root / "weights" / "movq.pt")
    return root


def write_third_encoder(folder: Path) -> None:
    """The folder of the text encoder, as transformers writes it."""
    found = tensors(THIRD)
    vocabulary = {"<end>": 1, "<pad>": 0}
    for text, group in ((THIRD_PROMPT, "text"), (_third_negative(), "neg_long")):
        ids = found[f"{group}.ids"][0]
        vocabulary |= dict(zip(text.split(), ids[: len(text.split())].tolist(), strict=True))
    # Words of the longest negative prompt that the original cut off before it ran.
    cut = facts(THIRD)["runs"]["t2i_neg_long"]["arguments"]["negative_text"].split()[len(_third_negative().split()) :]
    free = (k for k in range(2, 300) if k not in vocabulary.values())
    vocabulary |= dict(zip(cut, free, strict=False))
    _save_vocabulary(folder, vocabulary, "$A <end>", 512)
    config = facts(THIRD)["configuration"]["t5"]
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5", "architectures": ["T5EncoderModel"]}))
    torch.save(weights(THIRD, "t5"), folder / "pytorch_model.bin")


def _third_negative() -> str:
    """The words of the longest negative prompt whose ids are recorded."""
    words = str(facts(THIRD)["runs"]["t2i_neg_long"]["arguments"]["negative_text"]).split()
    return " ".join(words[: int(tensors(THIRD)["neg_long.mask"].sum()) - 1])
