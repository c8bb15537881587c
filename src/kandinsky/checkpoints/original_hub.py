"""The files of an original release on a hub that a model needs, and the repository of CLIP."""

from collections.abc import Iterable, Iterator

from kandinsky.checkpoints.maps.original_files import RELEASES, OriginalFiles
from kandinsky.checkpoints.weight_files import Choice, choose, is_small
from kandinsky.core.errors import CheckpointError, HubError

DECODER, PRIOR = "decoder", "prior"
HALVES = (DECODER, PRIOR)
"""The halves of a release; either may come from elsewhere."""
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
"""The repository of CLIP, which the releases name but do not hold."""
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
    """The files that the `halves` of a release need, small ones first; `variant` chooses another U-Net than the first.
    HubError for a variant that the release lacks, and for missing files."""
    names = set(files)
    wanted = list(_decoder(names, release, variant, where)) if DECODER in halves else []
    if PRIOR in halves and release.prior is not None:
        wanted += [release.prior, str(release.statistics)]
        wanted += [release.clip] if release.clip in names else []
        # Towers and vocabularies that a repository holds itself save those from elsewhere.
        for folder in (release.clip_folder, *release.vocabularies):
            wanted += [f"{folder}/{name}" for name in inside(names, str(folder)) if is_small(name)]
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
        if folder is not None and (inside(names, folder) or release.published_text_encoder is None):
            yield from _encoder(names, folder, where)
    projections = [f"{release.text_encoder}/{file}" for owner, file in release.projections if owner == unet]
    yield from (file for file in projections if file in names)


def plan_encoder(files: Iterable[str], where: str) -> tuple[str, ...]:
    """The files of a text encoder's own repository that are needed, small ones first; HubError for missing ones."""
    return tuple(_encoder(set(files), "", where))


def _encoder(names: set[str], folder: str, where: str) -> list[str]:
    """A text encoder's files: configuration, tokenizer, and weights; "" is the folder of all."""
    files, weights = inside(names, folder), _weights(names, folder, where)
    if not weights or not any(name in _TOKENIZERS for name in files):
        what = "tokenizer" if weights else "weights"
        raise HubError(f"{_in(where, folder)} holds no {what}.", "The model is incomplete.")
    return [_in(folder, name) for name in files if is_small(name)] + weights


def weights_in(names: Iterable[str], folder: str, variant: str | None, where: str) -> Choice | None:
    """The weights to read in a folder of a repository, None for none; HubError as `choose`."""
    try:
        return choose(inside(names, folder), variant, _in(where, folder))
    except CheckpointError as error:
        raise HubError(error.message, error.hint) from error


def _weights(names: set[str], folder: str, where: str) -> list[str]:
    choice = weights_in(names, folder, None, where)
    if choice is None:
        return []
    return [_in(folder, name) for name in (*choice.files, *([choice.index] if choice.index else []))]


def inside(names: Iterable[str], folder: str) -> list[str]:
    """The names of the files right in a folder of a repository, in order; "" is the repository's own."""
    start = f"{folder}/" if folder else ""
    below = (name.removeprefix(start) for name in names if name.startswith(start))
    return sorted(name for name in below if "/" not in name)


def _in(folder: str, name: str) -> str:
    return "/".join(part for part in (folder, name) if part)
