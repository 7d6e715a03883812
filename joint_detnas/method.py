"""Joint-DetNAS: Upgrade Your Detector with NAS, Pruning and Dynamic Distillation (Yao, Pi et al., CVPR 2021).

A base detector is upgraded: step by step its student changes a little, or the teacher that it learns from does.

    Section 3.1.2, student morphism          morphism.py, on the descriptions of students.py
    Section 3.1.3, elastic teacher pool      teachers.py
    Section 3.2, knowledge distillation      distillation.py
    Section 3.3, overall loss                Pupil, here
    Section 3.1.4, score H and Algorithm 1   Judge, TopK, hill_climb, here

Differences from the paper, where it is silent or its formula leaves a choice; names in brackets are settings:

 1. Pair 0 is {S_base, P_super} as given, not trained: it is on the list from the start, so that "sample from top-k
    list" has something to draw, and what is found is never worse than the base by H.
 2. A proposal is made once: the same action on the same parent, or the same teacher for it, is drawn again.
 3. f_adap is inherited along with the student.
 4. C is the multiply-accumulates of the whole detector at the base size, whatever size is judged, for R stands for the
    size already; R is the short side. beta is 1: the paper prints neither alpha nor beta (`alpha`, `beta`).
 5. The list has 5 places, and each of its pairs is drawn alike (`k`). Student or teacher is a fair coin
    (`student_probability`).
 6. "Until Convergence" is a number of pairs, about the 100 of Table 7 (`budget`). Pairs of a generation are drawn from
    one list, so that they can be trained side by side (`generation`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from common.batch import Batch
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError
from joint_detnas.distillation import DistillationSettings, RegionAdapter, distilled_losses, taught_by
from joint_detnas.morphism import Action, MorphismSettings, gamma_penalty, sample_action
from joint_detnas.students import Architecture
from joint_detnas.teachers import Teacher, TeacherSpace

Size = tuple[int, int]  # width and height, pixels


# ----------------------------------------------------------------------------------------------------------------------
# Section 3.3: overall loss for training students
# ----------------------------------------------------------------------------------------------------------------------


class Pupil(nn.Module):
    """What a pair's training changes: the student, and f_adap from its features to those of any teacher of the pool."""

    def __init__(self, student: TwoStage, teacher_channels: int) -> None:
        super().__init__()
        self.student = student
        self.adapter = RegionAdapter(student.fpn.width, teacher_channels)

    def losses(
        self, batch: Batch, teacher: TwoStage | None, distillation: DistillationSettings, gamma_weight: float
    ) -> dict[str, Tensor]:
        """L = L_det + L_feat + L_pred + lambda L_BN as "loss", and its parts: see `distilled_losses`; "gamma" is L_BN,
        not weighted. teacher: as `TeacherPool.ready` gives it; none: L_feat and L_pred are left out.
        """
        outputs = self.student(batch.images)
        if teacher is None:
            losses = two_stage_losses(outputs, batch)
        else:
            teaching = taught_by(teacher, batch.images)
            losses = distilled_losses(outputs, batch, teaching, self.adapter, distillation)
        penalty = gamma_penalty(self.student)
        return {**losses, "loss": losses["loss"] + gamma_weight * penalty, "gamma": penalty}


# ----------------------------------------------------------------------------------------------------------------------
# Section 3.1.4: the score
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """H(S, R) = mAP(S) x [(C(S) / C_base) x (R / R_base)^beta]^-alpha.

    base_cost: C_base, and all costs, at base_size. R: the short side of a size.
    """

    base_cost: float
    base_size: Size
    alpha: float
    beta: float

    def score(self, ap: float, cost: float, size: Size) -> float:
        """H of a student with that AP at that input size; cost: C, at the base size."""
        complexity = cost / self.base_cost * (min(size) / min(self.base_size)) ** self.beta
        return ap * complexity**-self.alpha

    def best(self, ap_at: Mapping[Size, float], cost: float) -> tuple[float, Size]:
        """max_i H(S, r_i), and that r_i; of equally good ones the smallest."""
        scores = {size: self.score(ap, cost, size) for size, ap in ap_at.items()}
        size = max(sorted(scores, key=lambda each: (min(each), each)), key=scores.__getitem__)
        return scores[size], size


# ----------------------------------------------------------------------------------------------------------------------
# Section 3.1.4: hill climbing
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """Algorithm 1, and its controls."""

    budget: int = 100
    """Pairs that are trained (paper: about 100)."""
    k: int | None = 5
    """Places of the top-k list that parents are drawn from (none: from all pairs, which makes it a random walk)."""
    student_probability: float = 0.5
    """Probability that a step changes the student; else it changes the teacher."""
    teacher: Literal["dynamic", "largest", "none"] = "dynamic"
    """A step of the teacher mutates it; or, as in conventional distillation, the largest teaches always, and such a
    step trains the same student on; or nobody teaches at all, which leaves architecture search and pruning."""
    generation: int = 4
    """Pairs drawn from one list; so many can be trained side by side."""
    alpha: float = 0.07
    """Balances AP and complexity in the score."""
    beta: float = 1.0
    """Balances architecture and resolution in the complexity."""
    morphism: MorphismSettings = field(default_factory=MorphismSettings)
    """Of the student's actions."""

    def __post_init__(self) -> None:
        problems = {
            f"a budget of {self.budget} pairs": self.budget < 0,
            f"a list of {self.k} places": self.k is not None and self.k < 1,
            f"a generation of {self.generation} pairs": self.generation < 1,
            f"a student's step with probability {self.student_probability}": not 0 <= self.student_probability <= 1,
        }
        for problem, there in problems.items():
            if there:
                raise InputError(f"the search settings cannot be used: there is no {problem} ({self})")


@dataclass(frozen=True)
class Pair:
    """{S, T}. The student's weights are known by the number of the pair that they were trained in."""

    student: Architecture
    teacher: Teacher


@dataclass(frozen=True)
class Proposal:
    """A pair yet to be trained: the student of pair `parent`, changed by `action` (None: as it is), and a teacher.

    number: counts pairs, 0 the base. What channel and layer pruning leave hangs on weights, so that the student's
    architecture is known only once it was made.
    """

    number: int
    parent: int | None
    action: Action | None
    teacher: Teacher
    step: Literal["base", "student", "teacher", "train on"]

    @property
    def kind(self) -> str:
        """Of its action, or what the step does without one."""
        return self.step if self.action is None else self.action.kind

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON that names the proposal in a run."""
        action = self.step if self.action is None else str(self.action)
        return {"pair": self.number, "parent": self.parent, "action": action, "teacher": str(self.teacher)}


@dataclass(frozen=True)
class Evaluated:
    """A trained pair. score: max_i H(S, r_i), at `resolution`; NaN where it failed, and there is no pair then."""

    proposal: Proposal
    generation: int
    pair: Pair | None
    score: float
    cost: float
    resolution: Size | None

    @property
    def number(self) -> int:
        """Of the pair."""
        return self.proposal.number


class TopK:
    """The best pairs so far, best first; of equally good ones the first. k: None: all that did not fail."""

    def __init__(self, k: int | None) -> None:
        self.k, self.members = k, []

    def update(self, each: Evaluated) -> bool:
        """Takes a pair in, if it belongs there; whether it did."""
        if not math.isfinite(each.score):
            return False
        self.members = sorted([*self.members, each], key=lambda one: (-one.score, one.number))[: self.k]
        return each in self.members


@dataclass
class History:
    """All pairs in the order in which they were proposed, the base first."""

    evaluated: list[Evaluated] = field(default_factory=list)

    @property
    def base(self) -> Evaluated:
        """Pair 0."""
        return self.evaluated[0]

    def best(self) -> Evaluated:
        """The pair with the highest score; of equally good ones the first."""
        best = TopK(1)
        for each in self.evaluated:
            best.update(each)
        return best.members[0]

    def scores(self) -> list[float]:
        """The best score after each pair, the base first."""
        values = [each.score if math.isfinite(each.score) else -math.inf for each in self.evaluated]
        return np.maximum.accumulate(values).tolist()

    def increment(self, each: Evaluated) -> float:
        """By how much a pair's score is above its parent's: what its action brought."""
        return each.score - self.evaluated[each.proposal.parent].score


Evaluate = Callable[[Sequence[Proposal]], Iterator[Mapping[str, Any]]]
"""Makes, trains and measures pairs, each from its parent's weights: yields for each, in order, "architecture" (as
`Architecture.to_dict`), "score", "cost" and "resolution"; where it failed, none of these."""


def hill_climb(
    base: Pair,
    space: TeacherSpace,
    settings: Settings,
    evaluate: Evaluate,
    seed: int,
    forget: Callable[[Sequence[int]], None] | None = None,
) -> History:
    """Algorithm 1. base: {S_base, P_super}. forget: told, after each generation, which pairs were trained that will
    never be parents, so that their weights may go.

    What is proposed hangs only on the seed, the number of the pair and what was measured before: done again over
    recorded measurements, the search comes to the same pair again, wherever it was broken off.
    Raises `InputError` where the base itself could not be measured.
    """
    history, best, proposed, generation = History(), TopK(settings.k), set(), 0
    drawn = [Proposal(0, None, None, base.teacher, "base")]
    while drawn:
        for proposal, measured in zip(drawn, evaluate(drawn), strict=True):
            each = _evaluated(proposal, generation, measured)
            history.evaluated.append(each)
            best.update(each)
        if not best.members:
            raise InputError(f"the base detector could not be measured ({measured.get('reason', 'no AP')})")
        if forget is not None:
            kept = {each.number for each in best.members}
            forget([each.number for each in history.evaluated if each.number not in kept])
        generation += 1
        first, most = len(history.evaluated), settings.budget + 1
        drawn = []
        for number in range(first, min(first + settings.generation, most)):
            drawn.append(_propose(best.members, space, settings, proposed, number, seed))
            proposed.add(_same(drawn[-1]))
    return history


def _propose(
    parents: Sequence[Evaluated], space: TeacherSpace, settings: Settings, proposed: set, number: int, seed: int
) -> Proposal:
    """Lines 5 to 12: a pair from the list, student or teacher, and what becomes of it."""
    generator = np.random.default_rng([seed, number])
    for _ in range(100):
        parent = parents[int(generator.integers(len(parents)))]
        teacher = parent.pair.teacher
        if generator.random() < settings.student_probability:
            action = sample_action(parent.pair.student, generator, settings.morphism)
            proposal = Proposal(number, parent.number, action, teacher, "student")
        elif settings.teacher == "dynamic":
            proposal = Proposal(number, parent.number, None, space.mutate(teacher, generator), "teacher")
        else:
            return Proposal(number, parent.number, None, teacher, "train on")
        if _same(proposal) not in proposed:
            break
    return proposal


def _same(proposal: Proposal) -> tuple[Any, ...]:
    """What two proposals share that are one."""
    return proposal.parent, proposal.action, proposal.teacher


def _evaluated(proposal: Proposal, generation: int, measured: Mapping[str, Any]) -> Evaluated:
    score = measured.get("score")
    if score is None or not math.isfinite(score):
        return Evaluated(proposal, generation, None, math.nan, math.nan, None)
    pair = Pair(Architecture.from_dict(measured["architecture"]), proposal.teacher)
    return Evaluated(proposal, generation, pair, score, measured["cost"], tuple(measured["resolution"]))
