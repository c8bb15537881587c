"""What a user of the peer runs for one image: imports, loading, the image, a PNG."""

import json
import sys

from benchmarks.against_diffusers.peer import Peer
from benchmarks.against_diffusers.request import Job


def main(arguments: list[str]) -> None:
    """Makes the first image of a job (JSON) and writes it to a path."""
    from PIL.Image import fromarray

    side = Peer(Job.from_json(json.loads(arguments[0])))
    fromarray(side.run(lambda stage: None)[0]).save(arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
