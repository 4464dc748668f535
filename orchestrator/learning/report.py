"""What came of a fit, as JSON values, and where it goes: ``slimsched train-router`` writes it beside the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ConfigError
from orchestrator.evaluation.document import round_value
from orchestrator.learning.fitting import Fit, FitSettings, Learned
from orchestrator.learning.judging import Candidate
from orchestrator.learning.ppo.training import Round
from orchestrator.learning.traffic import CHOOSING, WINDOWS, Traffic
from orchestrator.reporting.outputs import check_folder
from orchestrator.simulation.scenario.digest import digest_scenario

_ELSEWHERE: Final = "choose another place with --out"


def report_path(out: Path, inputs: Sequence[Path | None], *, has_policy: bool = True) -> Path:
    """Return where the report of a policy file goes, or of a judgement that writes none, before the long work.

    Raises:
        ConfigError: when it or the policy would replace an input, or each other, or nothing can be written there.
    """
    check_folder(out.parent, _ELSEWHERE)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; {_ELSEWHERE}")
    path = out.with_suffix(".json")
    given = {each.resolve() for each in inputs if each is not None}
    if has_policy and out.resolve() in given:
        raise ConfigError(f"the policy {out} would replace what it is made of; {_ELSEWHERE}")
    if path.resolve() in ({*given, out.resolve()} if has_policy else given):
        raise ConfigError(f"the report of {out} would be {path}, which is something else; {_ELSEWHERE}")
    return path


def describe_fit(fit: Fit, traffic: Traffic, settings: FitSettings) -> dict[str, Any]:
    """Return the report: what it was fitted to, every candidate, who is promoted and why, and how learning went."""
    return {
        **describe_judgement(fit.candidates, fit.promoted, fit.why, traffic),
        "evolution": None if fit.evolved is None else asdict(fit.evolved),
        **{each.origin: _describe_learned(each) for each in fit.learned},
        "settings": asdict(settings),
        "seconds": round(fit.seconds, 1),
    }


def _describe_learned(learned: Learned) -> dict[str, Any]:
    rounds = learned.rounds
    moving = [at for at, each in enumerate(rounds) if each.is_moving]
    return {
        "base": learned.base,
        "strength": learned.file.strength,
        "choices": learned.choices,
        "rounds": len(rounds),
        "choices_per_s": _rates(rounds),
        "actor_moves_from_round": moving[0] + 1 if moving else None,
        "explained_variance": [round(each.explained, 3) for each in rounds],
        "explained_by_critic": [round(each.by_critic, 3) for each in rounds],
        "gradient_signal_to_noise": [round(each.signal, 3) for each in rounds],
    }


def describe_judgement(
    candidates: Sequence[Candidate], promoted: Candidate | None, why: str, traffic: Traffic
) -> dict[str, Any]:
    """Return what candidates were judged on, what came of it, and which is better than the policy in force, if any."""
    return {
        "scenario": traffic.task.settings.name,
        "scenario_digest": digest_scenario(traffic.task.settings, traffic.task.servers),
        "rate_rps": round_value(traffic.rate_rps),
        "window_requests": traffic.requests,
        "windows": {"choosing": CHOOSING, "held_out": WINDOWS},
        "crowding": traffic.task.crowding,
        "energy_weight": round_value(traffic.task.settings.objectives.energy_weight),
        "promoted": None if promoted is None else promoted.spec,
        "why": why,
        "candidates": [_describe(candidate) for candidate in candidates],
    }


def _rates(rounds: Sequence[Round]) -> dict[str, float | None] | None:
    """Return choices a second, collected alone and learned from end to end; None where there was no round."""
    choices = sum(each.choices for each in rounds)
    spent = {"collected": sum(r.collected_s for r in rounds), "learned": sum(r.took_s for r in rounds)}
    return {name: round_value(choices / seconds) for name, seconds in spent.items()} if choices else None


def _describe(candidate: Candidate) -> dict[str, Any]:
    return {
        "origin": candidate.origin,
        "policy": candidate.spec,
        "utility_choosing": round_value(candidate.utility_choosing),
        "chosen_by": [round_value(value) for value in candidate.chosen_by],
        "held_out": {name: round_value(value) for name, value in candidate.figures.items()},
        "better_by": [round_value(value) for value in candidate.better_by],
    }
