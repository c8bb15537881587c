"""A release of original files on a hub: which of its files a model needs, and where CLIP is from."""

from collections.abc import Iterable, Iterator

from kandinsky.checkpoints.maps.original_files import RELEASES, OriginalFiles
from kandinsky.checkpoints.weight_files import choose, is_small
from kandinsky.core.errors import CheckpointError, HubError

DECODER, PRIOR = "decoder", "prior"
HALVES = (DECODER, PRIOR)
"""What a release is made of; either may come from elsewhere."""
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
"""Where the towers of CLIP are that the releases name but do not hold."""
CLIP_TOWERS = ("config.json", "model.safetensors")
CLIP_VOCABULARY = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

_TOKENIZERS = ("tokenizer.json", "sentencepiece.bpe.model", "spiece.model")


def release_of(files: Iterable[str]) -> OriginalFiles | None:
    """The release whose U-Nets or prior are among `files`; None when there is none."""
    names = set(files)
    return next((known for known in RELEASES if names & {*known.unets.values(), known.prior}), None)


def plan_original(
    files: Iterable[str], release: OriginalFiles, variant: str | None, halves: Iterable[str], where: str
) -> tuple[str, ...]:
    """Says which of a repository's `files` the `halves` of a release need, small ones first.

    `variant` asks for another U-Net than the first. Raises HubError for one that the release does not have,
    and for what is missing.
    """
    names = set(files)
    wanted = list(_decoder(names, release, variant, where)) if DECODER in halves else []
    if PRIOR in halves and release.prior is not None:
        wanted += [release.prior, str(release.statistics)]
        wanted += [release.clip] if release.clip in names else []
        # Towers and vocabularies that a repository holds itself save those from elsewhere.
        for folder in (release.clip_folder, *release.vocabularies):
            wanted += [f"{folder}/{name}" for name in _inside(names, str(folder)) if is_small(name)]
        wanted += _weights(names, str(release.clip_folder), where)
    for name in wanted:
        if name not in names:
            raise HubError(f"{where} has no file {name!r}.", "The model is incomplete.")
    wanted = list(dict.fromkeys(wanted))
    return tuple(sorted(wanted, key=lambda name: not is_small(name)))


def _decoder(names: set[str], release: OriginalFiles, variant: str | None, where: str) -> Iterator[str]:
    try:
        unet = release.unets[release.unet_of(variant, names.__contains__)]
    except CheckpointError as error:
        raise HubError(f"{where}: {error.message}", error.hint) from error
    yield from (unet, release.codec)
    for folder in (release.text_encoder, release.second_text_encoder):
        # Where a release took its text encoder from elsewhere, so must whoever loads it.
        if folder is not None and (_inside(names, folder) or release.published_text_encoder is None):
            yield from _encoder(names, folder, where)
    beside = [f"{release.text_encoder}/{file}" for owner, file in release.projections if owner == unet]
    yield from (file for file in beside if file in names)


def plan_encoder(files: Iterable[str], where: str) -> tuple[str, ...]:
    """Says which of the `files` of a text encoder's own repository are needed, small ones first.

    Raises HubError for what is missing.
    """
    return tuple(_encoder(set(files), "", where))


def _encoder(names: set[str], folder: str, where: str) -> list[str]:
    """A text encoder's files: configuration, tokenizer, and weights; "" is the folder of all."""
    inside, weights = _inside(names, folder), _weights(names, folder, where)
    if not weights or not any(name in _TOKENIZERS for name in inside):
        what = "tokenizer" if weights else "weights"
        raise HubError(f"{_in(where, folder)} holds no {what}.", "The model is incomplete.")
    return [_in(folder, name) for name in inside if is_small(name)] + weights


def _weights(names: set[str], folder: str, where: str) -> list[str]:
    try:
        choice = choose(_inside(names, folder), None, _in(where, folder))
    except CheckpointError as error:
        raise HubError(error.message, error.hint) from error
    if choice is None:
        return []
    return [_in(folder, name) for name in (*choice.files, *([choice.index] if choice.index else []))]


def _inside(names: set[str], folder: str) -> list[str]:
    start = f"{folder}/" if folder else ""
    below = (name.removeprefix(start) for name in names if name.startswith(start))
    return sorted(name for name in below if "/" not in name)


def _in(folder: str, name: str) -> str:
    return "/".join(part for part in (folder, name) if part)
