"""The plan of a run: blocks of rounds, and what part of each stage a round covers."""

from collections.abc import Collection
from dataclasses import dataclass

from adamss_fl.federation.settings import BlockSettings, PlanSettings, StageName


@dataclass(frozen=True)
class Round:
    """One round of a plan.

    index : 1 for the first round of the run.
    stages : what every site trains, in order; epochs, steps : how long each (one of them is None).
    progress : per stage the fractions (from, to) of its whole length that this round covers, for the schedule.
    closes_block : whether a block ends here; its model is kept.
    """

    index: int
    stages: tuple[StageName, ...]
    epochs: int | None
    steps: int | None
    progress: dict[StageName, tuple[float, float]]
    closes_block: bool


def trains(stages: Collection[str], stage: str) -> bool:
    """Whether a round of ``stages`` trains the loss of ``stage``: ``joint`` trains both losses."""
    return stage in stages or "joint" in stages


@dataclass(frozen=True)
class RoundPlan:
    """A list of blocks, run one after the other.

    ``RoundPlan.sequential`` trains stage I in all its rounds and then stage II; ``RoundPlan.per_round`` trains both
    stages at every site in every round. Raises ValueError for a block without rounds or stages, or one that names
    both or neither of ``epochs`` and ``steps``.
    """

    blocks: tuple[BlockSettings, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("a plan needs at least one block")
        for number, block in enumerate(self.blocks, 1):
            if not block.stages or len(set(block.stages)) != len(block.stages):
                raise ValueError(f"block {number} of the plan must name each of its stages once")
            if block.rounds < 1:
                raise ValueError(f"block {number} of the plan must have at least one round, not {block.rounds}")
            if (block.epochs is None) == (block.steps is None):
                raise ValueError(f"block {number} of the plan must give either epochs or steps")
            if (block.epochs or block.steps or 0) < 1:
                raise ValueError(f"block {number} of the plan must train for at least one epoch or step")

    @classmethod
    def sequential(
        cls, segmentation_rounds: int, survival_rounds: int, epochs: int | None = 1, steps: int | None = None
    ) -> "RoundPlan":
        """Stage I in all its rounds, then stage II; a stage with 0 rounds is left out."""
        return cls(PlanSettings("sequential", segmentation_rounds, survival_rounds, epochs, steps).resolved())

    @classmethod
    def per_round(cls, rounds: int, epochs: int | None = 1, steps: int | None = None) -> "RoundPlan":
        """Both stages at every site in every round."""
        return cls(PlanSettings("per-round", rounds, rounds, epochs, steps).resolved())

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages that this plan trains, in the order of their first round."""
        return tuple(dict.fromkeys(stage for block in self.blocks for stage in block.stages))

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds in order."""
        lengths = self.stage_lengths()
        done = dict.fromkeys(lengths, 0)
        rounds: list[Round] = []
        for block in self.blocks:
            amount = block.epochs or block.steps or 0
            for number in range(1, block.rounds + 1):
                progress: dict[StageName, tuple[float, float]] = {}
                for stage in block.stages:
                    before, done[stage] = done[stage], done[stage] + amount
                    progress[stage] = (before / lengths[stage], done[stage] / lengths[stage])
                closes = number == block.rounds
                rounds.append(Round(len(rounds) + 1, block.stages, block.epochs, block.steps, progress, closes))
        return tuple(rounds)

    def stage_lengths(self) -> dict[StageName, int]:
        """Passes over each patient (or steps) that each stage trains in the whole run.

        Raises ValueError where a stage is measured in epochs in one block and in steps in another.
        """
        lengths: dict[StageName, int] = {}
        for stage in self.stages:
            blocks = [block for block in self.blocks if stage in block.stages]
            if len({block.epochs is None for block in blocks}) > 1:
                raise ValueError(f"stage {stage} must be measured in epochs or in steps, the same in every block")
            lengths[stage] = sum(block.rounds * (block.epochs or block.steps or 0) for block in blocks)
        return lengths

    @property
    def trains_both_in_a_round(self) -> bool:
        """Whether in some round a site trains stage II on the trunk that its own stage I has just moved."""
        return any({"segmentation", "survival"} <= set(block.stages) for block in self.blocks)

    def last_round_of(self, stage: StageName) -> int:
        """Index of the last round that trains ``stage``, be it within ``joint``; 0 where none does."""
        return max((round_.index for round_ in self.rounds if trains(round_.stages, stage)), default=0)

    def first_survival_round(self) -> int:
        """Index of the first round of stage II where only earlier rounds trained segmentation; 0 where there is none.

        This is where a model passes from stage I to stage II at the server; inside a round it does so at the sites.
        """
        segmented = False
        for round_ in self.rounds:
            segments = trains(round_.stages, "segmentation")
            if "survival" in round_.stages:
                return round_.index if segmented and not segments else 0
            segmented = segmented or segments
        return 0

    def describe(self) -> str:
        """One line for a person: ``10 x segmentation (1 epoch), then 10 x survival (1 epoch)``."""
        return ", then ".join(_describe_block(block) for block in self.blocks)


def _describe_block(block: BlockSettings) -> str:
    amount, unit = (block.epochs, "epoch") if block.epochs is not None else (block.steps, "step")
    return f"{block.rounds} x {' + '.join(block.stages)} ({amount} {unit}{'s' if amount != 1 else ''})"
