"""What becomes of a candidate, and of what is written of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.rollout import RolloutSettings
from orchestrator.router.rollout.evidence import Evidence
from orchestrator.router.rollout.record import (
    digest,
    in_force_path,
    kept_path,
    read_record,
    record_path,
    write_record,
)
from orchestrator.router.rollout.stages import (
    MOST_BLOCKS,
    Rollout,
    Source,
    Verdict,
    leave_shadow,
    leave_share,
    reconcile,
    resume,
)

SETTINGS = RolloutSettings(shadow_decisions=100, answers=200)
SHADOW = Rollout("new", 0.0, "it came")
BROKEN = (
    ("rolling out", "perhaps"),
    ('"stage": 2', '"stage": -1'),
    ('"stage": 2', '"stage": 1e999'),
    ('"since_unix_s": 0.0', '"since_unix_s": NaN'),
    ('"since_unix_s": 0.0', '"since_unix_s": 1e999'),
    ('"since_unix_s": 0.0', '"since_unix_s": 1e12'),
    ('"candidate": "new",', ""),
)
ROLLOUTS = st.builds(
    Rollout,
    candidate=st.sampled_from(["new", "other"]),
    since_unix_s=st.floats(0, 1e9),
    why=st.text(max_size=5),
    stage=st.integers(0, 3),
    verdict=st.sampled_from(Verdict),
)
EVIDENCE = st.builds(
    Evidence,
    blocks=st.integers(0, 2 * MOST_BLOCKS),
    requests=st.integers(0, 1000),
    mean=st.floats(-1, 1),
    squares=st.floats(0, 10),
)


def at(stage: int) -> Rollout:
    return replace(SHADOW, stage=stage)


def test_a_candidate_leaves_the_shadow_after_so_many_decisions() -> None:
    assert leave_shadow(SHADOW, SETTINGS, Counter(same=99), unix_s=1.0) is SHADOW
    on = leave_shadow(SHADOW, SETTINGS, Counter(same=60, other=39, fault=1), unix_s=1.0)
    assert (on.stage, on.verdict, on.since_unix_s) == (1, Verdict.ROLLING, 1.0)
    assert on.why == "in the shadow 39 of 100 decisions were others, and 1 faults"
    assert on.share(SETTINGS.shares) == 0.05


def test_a_candidate_that_fails_in_the_shadow_is_given_up() -> None:
    back = leave_shadow(SHADOW, SETTINGS, Counter(same=90, fault=10), unix_s=1.0)
    assert (back.verdict, back.share(SETTINGS.shares)) == (Verdict.RETURNED, 0.0)


@pytest.mark.parametrize(
    ("evidence", "stage", "verdict"),
    [
        (Evidence(40, 500, 0.0, 0.001), 2, Verdict.ROLLING),
        (Evidence(40, 199, 0.0, 0.001), 1, Verdict.ROLLING),  # surely, but of too few requests
        (Evidence(3, 30, -0.3, 0.001), 1, Verdict.RETURNED),  # at once, however few
        (Evidence(40, 500, -0.3, 0.001), 1, Verdict.RETURNED),
        (Evidence(40, 500, 0.0, 5.0), 1, Verdict.ROLLING),  # unsure
        (Evidence(MOST_BLOCKS, 500, 0.0, 50.0), 2, Verdict.ROLLING),
        (Evidence(MOST_BLOCKS, 500, -0.011, 50.0), 1, Verdict.RETURNED),
    ],
)
def test_a_candidate_goes_on_when_it_is_surely_not_worse_and_back_when_it_surely_is(
    evidence: Evidence, stage: int, verdict: Verdict
) -> None:
    found = leave_share(at(1), SETTINGS, evidence, unix_s=2.0)
    assert (found.stage, found.verdict) == (stage, verdict)


def test_beyond_the_last_share_a_candidate_is_in_force() -> None:
    found = leave_share(at(2), SETTINGS, Evidence(40, 500, 0.0, 0.001), unix_s=2.0)
    assert (found.verdict, found.share(SETTINGS.shares)) == (Verdict.IN_FORCE, 1.0)
    assert "in 40 blocks, at 25% of the time" in found.why


@given(EVIDENCE, st.integers(1, 2))
def test_what_was_worse_on_average_by_more_than_is_tolerated_never_goes_on(evidence: Evidence, stage: int) -> None:
    found = leave_share(at(stage), SETTINGS, evidence, unix_s=2.0)
    if evidence.mean <= -SETTINGS.tolerance:
        assert found.stage == stage
    if evidence.mean >= 0:
        assert found.verdict is not Verdict.RETURNED
    if evidence.blocks >= MOST_BLOCKS and evidence.requests >= SETTINGS.answers:
        assert found is not at(stage)


@given(ROLLOUTS, ROLLOUTS)
def test_what_two_processes_found_ends_in_one_and_nothing_that_ended_goes_on(own: Rollout, written: Rollout) -> None:
    found = reconcile(own, written)
    assert reconcile(found, written) == found
    assert found.candidate == own.candidate
    if own.candidate == written.candidate:
        assert written.verdict is Verdict.ROLLING or found == written
        assert (found.verdict, found.stage) >= (own.verdict, own.stage) or written.verdict is not Verdict.ROLLING
        assert Verdict.ROLLING not in (own.verdict, written.verdict) or found.stage >= own.stage or found == written
    assert reconcile(own, None) == own


@pytest.mark.parametrize(
    ("file", "kept", "written", "source", "verdict"),
    [
        ("new", None, None, Source.FILE, None),
        ("new", "new", None, Source.FILE, None),
        ("new", "old", None, Source.KEPT, Verdict.ROLLING),
        ("newer", "old", SHADOW, Source.KEPT, Verdict.ROLLING),
        ("new", "old", at(1), Source.KEPT, Verdict.ROLLING),
        ("new", "old", at(1).returned("", 0.0), Source.KEPT, Verdict.RETURNED),
        ("new", None, at(1).returned("", 0.0), Source.FALLBACK, Verdict.RETURNED),
        ("new", "new", replace(at(3), verdict=Verdict.IN_FORCE), Source.FILE, Verdict.IN_FORCE),
        ("old", "old", at(1).returned("", 0.0), Source.FILE, None),
    ],
)
def test_a_router_that_begins_goes_on_where_it_was(
    file: str, kept: str | None, written: Rollout | None, source: Source, verdict: Verdict | None
) -> None:
    found, rollout = resume(file, kept, written, unix_s=5.0)
    assert (found, rollout and rollout.verdict) == (source, verdict)
    assert rollout is None or rollout.candidate == file
    assert written is None or rollout is None or rollout.candidate != written.candidate or rollout == written


def test_a_record_is_read_as_it_was_written_and_what_is_none_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    assert read_record(file) is None
    write_record(file, at(2))
    assert read_record(file) == at(2)
    whole = record_path(file).read_text()
    broken = ("", "[]", "null", "[" * 10**5, "\xff", *(whole.replace(*each) for each in BROKEN))
    for text in broken:
        record_path(file).write_text(text, encoding="latin-1")
        assert read_record(file) is None


def test_the_policy_in_force_is_the_copy_while_the_file_is_on_trial(tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    assert in_force_path(file) == file
    file.write_bytes(b"new")
    assert in_force_path(file) == file
    kept_path(file).write_bytes(b"old")
    write_record(file, replace(SHADOW, candidate=digest(b"new")))
    assert in_force_path(file) == kept_path(file)
    write_record(file, replace(SHADOW, candidate=digest(b"new"), verdict=Verdict.IN_FORCE))
    assert in_force_path(file) == file
