"""Who meets in suites: policies by their specs."""

from __future__ import annotations

from typing import Final

from orchestrator.config import GuardSettings, RouterSettings
from orchestrator.evaluation.cases import LEARNED
from orchestrator.policies.learned.policy_file import PAPER

LEARNED_POINTS: Final = (
    LEARNED,
    f"{LEARNED},accuracy=1,latency=0,energy=0",
    f"{LEARNED},accuracy=0.75,latency=0.1,energy=0.15",
    f"{LEARNED},accuracy=0.6,latency=0.1,energy=0.3",
    f"{LEARNED},accuracy=0.45,latency=0.1,energy=0.45",
    f"{LEARNED},accuracy=0.3,latency=0.1,energy=0.6",
    f"{LEARNED},accuracy=0.2,latency=0.1,energy=0.7",
    f"{LEARNED},accuracy=0.1,latency=0.1,energy=0.8",
    f"{LEARNED},accuracy=0,latency=0,energy=1",
)
"""The one checkpoint at the weights that it comes with and along its frontier."""
PAPER_POINTS: Final = (PAPER, f"{PAPER}:accurate")
"""The paper's own policy at two weightings of its reward."""
RANDOM: Final = "random"
RANDOM_BATCH: Final = "random-batch"
"""Draws how many go together as well, as the paper's actions do, and so binds late."""
FALLBACK: Final = GuardSettings().fallback
"""The guard's, by default. It is ``lert:slack`` with half of the time that waits in reserve, and has no tuning of its
own: ``lert:slack,slack_margin=2``, which is among what is tried of that, keeps as much, of the head's time too."""
HEURISTICS: Final = (
    "round-robin:slack",
    "weighted-round-robin:slack",
    "least-work:slack",
    "jsq:slack",
    "sed:slack",
    "p2c:slack",
    "p2c-jsq:slack",
    "weighted-random:slack",
    FALLBACK,
    "lert:slack",
    "lert:widest",
    "lert:narrowest",
    "lect:slack",
    "achq",
    "clipper-plus:slack",
    "clipper-aimd:slack",
    "nexus",
    "control-limit",
    "slackfit",
    "slackfit-accuracy",
    "max-accuracy",
    "max-batch",
    "clockwork",
    "infaas",
    "model-switching",
    "alert",
    "thrift",
    "thrift:brownout",
    "fluid-lp",
    "proteus-lp",
)
DEFAULT: Final[str] = RouterSettings.model_fields["policy"].default
OF_PAPER: Final = (
    "random:narrowest",
    "weighted-random:narrowest",
    "jsq:narrowest",
    "lert:narrowest",
    "clipper-plus:narrowest",
    "nexus:narrowest",
    "jsq",
    "lert:widest",
    "lert:75",
    "clipper-plus:75",
    "nexus:75",
    "control-limit:75",
    "control-limit:75,limit=16",
    FALLBACK,
    "lert:slack",
    "slackfit",
    "max-accuracy",
    "max-batch",
    "alert,goal=1",
    "thrift",
    "thrift:brownout",
    DEFAULT,
)
"""Policies at the slimmest width, and such as may be more accurate than random ones and take fewer joules."""
SINGLES: Final = tuple(dict.fromkeys((*HEURISTICS, DEFAULT, LEARNED)))
"""Every policy that ships and is the same everywhere."""
