"""The status page: every field of its JSON, and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.controller.status.document import describe_status, encode_status, parse_page
from orchestrator.errors import PermanentError
from orchestrator.planner.actions import Plan
from orchestrator.planner.energy import CounterReading, EnergyAccount
from orchestrator.planner.rates import Rates
from orchestrator.telemetry.reading import Reading
from tests.controller.status.reports import (
    MIB,
    NOW_S,
    SCALE_UP,
    TRITONS_REASON,
    UNIX_S,
    UNREADABLE,
    blind_report,
    full_report,
    name,
    ready,
    seeing,
)

NO_WAIT = {"preferred_sizes": [], "delay_us": 0}


def test_the_host_is_shown_with_sources_and_reasons() -> None:
    page = encode_status(full_report())
    assert (page["server"], page["family"], page["steps"], page["trouble"]) == ("gpu-0", "fashion", 312, None)
    assert (page["unix_s"], page["plan_s"], page["step_s"]) == (UNIX_S, 0.0004, 0.012)
    assert page["server_id"] == "123-456"
    assert page["utilisation_ratio"] == {"value": 0.35, "source": "psutil", "reason": ""}
    assert page["power_w"] == page["energy_j"] == {"value": None, "source": "none", "reason": UNREADABLE}
    assert page["prices_s"] == {"load": 1.25, "scale-up": 0.25}
    memory = page["memory"]
    assert memory["used_bytes"] == {"value": 250 * MIB, "source": "smaps", "reason": ""}
    assert (memory["budget_bytes"], memory["residue_bytes"]) == (300 * MIB, 12 * MIB)
    assert memory["learned"] == {
        "fashion_w025": {"load_bytes": 40 * MIB, "further_instance_bytes": 20 * MIB, "seen_bytes": 22 * MIB},
        "fashion_w050": {"load_bytes": 60 * MIB, "further_instance_bytes": None, "seen_bytes": None},
        "fashion_w075": {"load_bytes": None, "further_instance_bytes": None, "seen_bytes": 70 * MIB},
    }
    assert memory["residues"] == [
        {"at_unix_s": UNIX_S - 60, "model": "fashion_w050", "expected_bytes": 60 * MIB, "returned_bytes": 48 * MIB}
    ]


def test_models_are_shown_by_width() -> None:
    models = encode_status(full_report())["models"]
    assert [model["label"] for model in models] == ["w025", "w050", "w075", "w100"]
    narrow, half, failed, absent = models
    assert narrow | {"rates": None} == {
        "model": "fashion_w025", "label": "w025", "width": 25, "accuracy": 0.9, "status": "ready", "status_reason": "",
        "instances": 2, "desired_instances": 2, "live_instances": 1, "batching": NO_WAIT, "rates": None,
        "waiting_requests": 3.25, "is_changing": False, "demanded_for_s": 58.0, "quarantine": [],
        "is_canonical": True, "request_j": None,
    }  # fmt: skip
    assert narrow["rates"] == {
        "window_s": 1.0, "requests_per_s": 1200.0, "failures_per_s": 0.5, "items_per_s": 1200.0,
        "executions_per_s": 300.0, "busy_instances": 1.5, "items_per_execution": 4.0, "service_s": 0.005, "reason": "",
    }  # fmt: skip
    assert half["batching"] == {"preferred_sizes": [8, 16], "delay_us": 500}
    assert half["is_changing"]
    assert failed["status_reason"] == TRITONS_REASON
    assert (failed["instances"], failed["desired_instances"], failed["batching"]) == (0, 1, None)
    assert (absent["status"], absent["is_canonical"]) == ("absent", None)


def test_rates_that_are_unknown_are_null_with_a_reason_never_zero() -> None:
    models = {model["label"]: model for model in encode_status(full_report())["models"]}
    assert models["w050"]["rates"]["items_per_s"] is None
    assert models["w050"]["rates"]["reason"] == "no earlier reading"
    assert models["w050"]["waiting_requests"] == 2.0, "what waits now needs no window"
    assert models["w100"]["rates"]["reason"] == "not ready"
    assert models["w100"]["waiting_requests"] is None
    report = seeing(full_report(), trouble="metrics can't be read: refused")
    half = encode_status(report)["models"][1]
    assert half["rates"]["reason"] == "metrics can't be read: refused"


def test_only_quarantine_entries_that_still_hold_are_shown() -> None:
    failed = encode_status(full_report())["models"][2]
    assert failed["quarantine"] == [
        {
            "until_unix_s": UNIX_S + 7.5, "for_s": 7.5, "failures": 2, "reason": TRITONS_REASON, "instances": 1,
            "batching": NO_WAIT,
        }
    ]  # fmt: skip


def test_the_plan_and_the_last_actions_are_shown_with_reasons_and_numbers() -> None:
    page = encode_status(full_report())
    scale_up = {
        "kind": "scale-up", "model": "fashion_w025", "reason": "queueing", "instances": 2, "batching": NO_WAIT,
        "is_forced": False, "needed_bytes": 20 * MIB, "numbers": {"waiting_requests": 3.25, "busy_ratio": 0.95},
    }  # fmt: skip
    assert page["planned"] == [scale_up]
    assert page["refusals"] == [
        {
            "kind": "load", "model": "fashion_w100", "reason": "memory-budget", "detail": "",
            "numbers": {"budget_bytes": 300 * MIB, "used_bytes": 250 * MIB, "needed_bytes": 80 * MIB},
        }
    ]  # fmt: skip
    assert page["notices"] == [
        {
            "kind": "restart-advised", "model": None,
            "numbers": {"residue_bytes": 600 * MIB, "limit_bytes": 512 * MIB}, "detail": "",
        }
    ]  # fmt: skip
    failed, grown, late = page["actions"]
    assert (failed["error"], failed["took_s"], failed["is_under_way"]) == (TRITONS_REASON, 0.4, False)
    assert grown == {
        "action": scale_up, "ended_unix_s": UNIX_S - 12, "took_s": 0.25, "error": None, "is_under_way": False
    }  # fmt: skip
    assert late["is_under_way"]


def test_without_triton_the_page_says_why_and_invents_nothing() -> None:
    page = encode_status(blind_report())
    assert page["trouble"] == "waiting for Triton at 127.0.0.1:8001: connection refused"
    assert page["models"] == page["planned"] == page["refusals"] == page["actions"] == []
    assert page["family"] is None
    assert page["memory"]["used_bytes"] == {
        "value": None, "source": "none", "reason": "the host has not been read yet"
    }  # fmt: skip


def test_names_stay_short_while_triton_is_down() -> None:
    report = replace(seeing(full_report(), snapshot=None, trouble="Triton can't be observed: refused"), plan=None)
    page = describe_status(report)
    assert (page.family, page.models) == ("fashion", ())


@pytest.mark.parametrize("report", [full_report(), blind_report()], ids=["full", "blind"])
def test_json_gives_the_page_back(report: object) -> None:
    text = json.dumps(encode_status(report), allow_nan=False)  # type: ignore[arg-type]
    assert parse_page(json.loads(text)) == describe_status(report)  # type: ignore[arg-type]


def test_the_page_says_how_old_it_is_and_a_controller_of_an_earlier_version_does_not() -> None:
    page = encode_status(full_report(), now_s=NOW_S + 2.5)
    assert parse_page(page).asked_unix_s(now_unix_s=7.0) == UNIX_S + 2.5
    earlier = parse_page({key: value for key, value in page.items() if key != "age_s"})
    assert (earlier.age_s, earlier.asked_unix_s(now_unix_s=7.0)) == (None, 7.0)


def test_json_has_no_infinity() -> None:
    action = replace(SCALE_UP, numbers=(("queue_s", float("inf")), ("gain_ratio", float("nan"))))
    page = encode_status(replace(full_report(), plan=Plan((action,))))
    assert page["planned"][0]["numbers"] == {"queue_s": None, "gain_ratio": None}


def test_a_newer_page_is_read_and_something_else_is_not() -> None:
    page = encode_status(full_report())
    assert parse_page({**page, "new_key": 1}) == describe_status(full_report())
    with pytest.raises(PermanentError, match=r"no controller's status page \(key memory is missing\)"):
        parse_page({key: value for key, value in page.items() if key != "memory"})
    with pytest.raises(PermanentError, match="no controller's status page"):
        parse_page(["x"])


def test_a_model_that_the_plan_does_not_name_has_no_desired_instances() -> None:
    report = full_report()
    assert report.seen.snapshot is not None
    snapshot = replace(report.seen.snapshot, models=(ready(10, rates=Rates()),))
    (model,) = describe_status(seeing(report, snapshot=snapshot)).models
    assert (model.model, model.desired_instances) == (name(10), None)


def test_joules_a_request_and_idle_power_are_there_once_they_are_known_and_never_0_before() -> None:
    unknown = describe_status(full_report())
    assert (unknown.idle_w, unknown.idle_j, {m.request_j for m in unknown.models}) == (None, None, {None})
    last, w025, w050 = CounterReading("rapl", 5000.0, 70.0), name(25), name(50)
    energy = EnergyAccount(
        idle_w=20.0, idle_j=60.0, models_j={w025: 30.0}, requests={w025: 1200.0, w050: 3.0}, last=last
    )
    page = parse_page(encode_status(replace(full_report(), energy=energy)))
    assert (page.idle_w, page.idle_j) == (20.0, 60.0)
    assert {m.label: m.request_j for m in page.models} == {"w025": 0.025, "w050": None, "w075": None, "w100": None}


def test_readings_keep_their_source() -> None:
    report = full_report()
    assert report.seen.reading is not None
    reading = replace(report.seen.reading, power_w=Reading(71.5, "nvml-power-average"))
    page = encode_status(seeing(report, reading=reading))
    assert page["power_w"] == {"value": 71.5, "source": "nvml-power-average", "reason": ""}
