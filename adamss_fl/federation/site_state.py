"""What a site keeps to itself between rounds, on its own disk: optimiser state and tensors of local groups."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file as load_safetensors
from safetensors.numpy import save as save_safetensors

from adamss_fl.federation.files import write_atomically
from adamss_fl.federation.messages import Weights

_KEPT = 3


class SiteState:
    """One file a round under ``folder/<run>``, so that a round can be repeated from the state before it.

    A site that is killed while training, or told to train a round again, starts from the newest state of an *earlier*
    round and so does the same work bit for bit.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder / run

    def before(self, round: int) -> Weights:
        """State after the newest round before ``round``; empty where there is none."""
        earlier = [number for number in self._rounds() if number < round]
        return load_safetensors(self._path(earlier[-1])) if earlier else {}

    def save(self, round: int, state: Weights, block_ends: Sequence[int] = ()) -> None:
        """Keep ``state`` as that after ``round``; later rounds are forgotten.

        So are earlier ones, but for a few and for the newest at or before each of ``block_ends``: the models of those
        rounds are applied again when the run is over, with the local tensors that go with them.
        """
        write_atomically(self._path(round), save_safetensors(state))
        rounds = self._rounds()
        earlier = [number for number in rounds if number <= round]
        of_blocks = {max((number for number in earlier if number <= end), default=round) for end in block_ends}
        for number in set(rounds) - set(earlier[-_KEPT:]) - of_blocks:
            self._path(number).unlink()

    def _path(self, round: int) -> Path:
        return self.folder / f"round-{round:04d}.safetensors"

    def _rounds(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("round-")) for path in self.folder.glob("round-*.safetensors"))
