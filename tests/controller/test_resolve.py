"""From settings to limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config import ControllerSettings, LimitSettings, ServerSettings
from orchestrator.config.controller import WidthSettings
from orchestrator.controller.resolve import check_budget, resolve_limits
from orchestrator.errors import ConfigError
from orchestrator.planner.host import HostSnapshot, Limits, LoadedModel, ModelSnapshot, ModelStatus, RepositoryModel
from orchestrator.snapshot import ServerName
from tests.controller.worlds import LIMITS, MIB, W025, W050, W075, W100
from tests.fakes.control import repository_model
from tests.planner.settings import with_settings

MODELS = tuple(map(repository_model, (100, 25, 75, 50)))  # in no order
GIB = 2**30


def resolve(
    *,
    device: Any = "cpu",
    limits: dict[str, Any] | None = None,
    memory_total_bytes: float | None = 8 * GIB,
    cpus: int | None = 6,
    deadline_ms: float = 100,
    models: tuple[RepositoryModel, ...] = MODELS,
    family_weights: dict[str, float] | None = None,
    **settings: Any,
) -> Limits:
    server = ServerSettings(name="a", grpc="localhost:1", device=device, limits=LimitSettings(**(limits or {})))
    return resolve_limits(
        server,
        ControllerSettings(**settings),
        models,
        memory_total_bytes=memory_total_bytes,
        cpus=cpus,
        deadline_ms=deadline_ms,
        family_weights=family_weights,
    )


@pytest.mark.parametrize("read_bytes", [None, GIB >> 2, 8 * GIB])
def test_the_limit_of_tritons_container_counts_whatever_the_controller_reads(read_bytes: float | None) -> None:
    def budget_bytes(**more: Any) -> int:
        return resolve(memory_total_bytes=read_bytes, limits={"memory_limit_mib": 1024, **more}).memory_budget_bytes

    assert budget_bytes() == int(0.8 * GIB)
    assert budget_bytes(memory_budget_mib=1000) == 1000 << 20
    with pytest.raises(ConfigError, match=r"1025 is more than the 1,024 MiB of Triton's .* for 80% of that"):
        budget_bytes(memory_budget_mib=1025)


def test_on_a_gpu_the_limit_of_the_container_is_of_other_memory() -> None:
    limits = {"memory_limit_mib": 1024}
    assert resolve(device="gpu", memory_total_bytes=80 * GIB, limits=limits).memory_budget_bytes == int(72 * GIB)


def test_defaults_on_a_cpu_host() -> None:
    limits = resolve()
    assert limits == Limits(
        memory_budget_bytes=4 * GIB,
        minimum=(W025,),
        wanted=(W025, W050, W075, W100),
        max_instances=6,
        unmeasured_instance_bytes=128 * MIB,
    ), "the defaults of settings and of limits agree"


def test_defaults_on_a_gpu_host() -> None:
    limits = resolve(device="gpu", memory_total_bytes=80 * GIB)
    assert limits.memory_budget_bytes == 72 * GIB
    assert (limits.max_instances, limits.unmeasured_instance_bytes) == (4, 1024 * MIB)
    assert resolve(cpus=None).max_instances == 2


def test_every_setting_reaches_its_limit_in_its_unit() -> None:
    settings: dict[str, Any] = {
        "minimum_widths": (50, 25),
        "wanted_widths": (100, 25),
        "idle_s": 4,
        "unload_after_s": 5,
        "deadline_budget_ms": 70,
        "batching_horizon_s": 8,
        "unmeasured_instance_mib": 10,
        "leak_limit_mib": 11,
    }
    limits = {"memory_budget_mib": 300, "utilisation_ceiling": 0.5, "max_instances": 3}
    assert resolve(limits=limits, **settings) == Limits(
        memory_budget_bytes=300 * MIB,
        minimum=(W050, W025),
        wanted=(W050, W025, W100),
        max_instances=3,
        utilisation_ceiling_ratio=0.5,
        unmeasured_instance_bytes=10 * MIB,
        leak_limit_bytes=11 * MIB,
        deadline_budget_s=0.07,
        batching_horizon_s=8,
        settings=ControllerSettings(**settings),
    )


PLATES = tuple(repository_model(width, family="plates") for width in (50, 100))
BOTH = (*MODELS, *PLATES)
P050, P100 = (model.name for model in PLATES)


def test_each_family_has_a_minimum_set_of_its_own() -> None:
    limits = resolve(models=BOTH)
    assert limits.minimum == (W025, P050)
    assert [n for n in limits.wanted if n.startswith("plates")] == [P050, P100]
    assert [n for n in limits.wanted if n.startswith("fashion")] == [W025, W050, W075, W100]


def test_a_family_that_is_named_has_its_own_widths_and_weight() -> None:
    own = {"plates": WidthSettings(minimum_widths=(100,), wanted_widths=())}
    limits = resolve(models=BOTH, families=own, minimum_widths=(50,), family_weights={"plates": 2.5})
    assert limits.minimum == (W050, P100)
    assert [n for n in limits.wanted if n.startswith("plates")] == [P100]
    assert limits.weights == {"plates": 2.5}


def test_a_width_that_one_family_lacks_is_refused_with_the_key_that_settles_it() -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(models=BOTH, minimum_widths=(25,))
    assert str(refused.value) == (
        "controller.minimum_widths: family plates has no width 25; it has 50, 100; "
        "name its own in controller.families.plates"
    )
    with pytest.raises(
        ConfigError, match=r"controller\.families\.plates\.wanted_widths: family plates has no width 75"
    ):
        resolve(models=BOTH, families={"plates": WidthSettings(wanted_widths=(75,))})


def test_a_family_that_is_not_there_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    resolve(families={"plats": WidthSettings()})
    assert "controller.families.plats: the repository of server a has no such family; it has fashion" in caplog.text


def test_batches_may_use_half_of_the_deadline_unless_said() -> None:
    assert resolve(deadline_ms=20).deadline_budget_s == 0.01
    assert resolve(deadline_ms=20, deadline_budget_ms=15).deadline_budget_s == 0.015


def test_no_wanted_widths_leaves_the_minimum() -> None:
    assert resolve(wanted_widths=()).wanted == (W025,)


def test_batching_off_makes_no_gain_worth_a_reload() -> None:
    assert resolve(batching=False).batching_horizon_s == 0


@pytest.mark.parametrize("key", ["minimum_widths", "wanted_widths"])
def test_a_width_that_the_repository_lacks_is_refused_by_name(key: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"controller\.{key}: the repository has no width 30; it has 25, 50, 75, 100"
    ):
        resolve(**{key: (25, 30)})


def test_a_budget_is_needed_where_the_memory_is_unknown() -> None:
    with pytest.raises(
        ConfigError, match=r"servers\[a\]\.limits\.memory_budget_mib is not set and the memory of device 0"
    ):
        resolve(device="gpu", memory_total_bytes=None)
    with pytest.raises(ConfigError, match="memory of the host can't be read"):
        resolve(memory_total_bytes=None)
    assert resolve(memory_total_bytes=None, limits={"memory_budget_mib": 1}).memory_budget_bytes == MIB


def test_a_repository_without_widths_is_refused() -> None:
    server = ServerSettings(name="a", grpc="localhost:1")
    with pytest.raises(ConfigError, match="holds no width"):
        resolve_limits(server, ControllerSettings(), (), memory_total_bytes=GIB, cpus=1, deadline_ms=1)


def test_a_budget_above_what_there_is_is_refused() -> None:
    assert resolve(limits={"memory_budget_mib": 8192}).memory_budget_bytes == 8 * GIB
    with pytest.raises(ConfigError) as error:
        resolve(limits={"memory_budget_mib": 8193})
    assert str(error.value) == (
        "servers[a].limits.memory_budget_mib: 8193 is more than the 8,192 MiB of the host; lower it, or leave it out "
        "for 50% of that"
    )
    with pytest.raises(ConfigError, match="99999 is more than the 81,920 MiB of device 2"):
        resolve(device="gpu", memory_total_bytes=80 * GIB, limits={"memory_budget_mib": 99999, "gpu_index": 2})


def host(used_mib: float | None, *, each_mib: float | None = None, **instances: int) -> HostSnapshot:
    """Return a host that runs so many instances of its widths, each of a size that may be seen."""
    models = []
    each_bytes = None if each_mib is None else int(each_mib * MIB)
    for model in MODELS:
        count = instances.get(model.name.removeprefix("fashion_"), 0)
        status = ModelStatus.READY if count else ModelStatus.ABSENT
        loaded = LoadedModel(model.name, status, instances=count)
        models.append(ModelSnapshot(model, loaded, instance_bytes=each_bytes if count else None))
    return HostSnapshot(tuple(models), None if used_mib is None else int(used_mib * MIB), None)


def check(budget_mib: int, snapshot: HostSnapshot, *, may_be_resuming: bool = False) -> None:
    limits = with_settings(
        replace(LIMITS, memory_budget_bytes=budget_mib * MIB, minimum=(W025, W050)), memory_margin=0.25
    )
    check_budget(limits, snapshot, server=ServerName("a"), may_be_resuming=may_be_resuming)


@pytest.mark.parametrize("may_be_resuming", [False, True])
def test_a_budget_below_the_minimum_set_is_refused_with_the_numbers(may_be_resuming: bool) -> None:
    with pytest.raises(ConfigError) as error:
        check(399, host(80), may_be_resuming=may_be_resuming)
    assert str(error.value).startswith(
        "servers[a].limits.memory_budget_mib: a budget of 399 MiB can't hold the minimum set: 80 MiB are in use and "
        "loading fashion_w025, fashion_w050 takes about 320 MiB more; raise it to at least 400,"
    )
    check(400, host(80), may_be_resuming=may_be_resuming)


def test_what_is_loaded_counts_as_measured() -> None:
    check(300, host(140, w025=1))
    with pytest.raises(ConfigError, match="140 MiB are in use and loading fashion_w050 takes about 160 MiB more"):
        check(299, host(140, w025=1))
    check(200, host(200, w025=1, w050=1))
    with pytest.raises(ConfigError, match="200 MiB are in use and all is loaded; raise it to at least 200"):
        check(199, host(200, w025=1, w050=1))


@pytest.mark.parametrize("snapshot", [host(None), host(500, w025=1, w100=1), host(500, w025=2)])
def test_nothing_is_refused_that_a_measurement_or_an_unload_may_allow(snapshot: HostSnapshot) -> None:
    check(10, snapshot)


@pytest.mark.parametrize("may_be_resuming", [False, True])
def test_a_budget_below_the_minimum_set_is_refused_beside_widths_that_could_go(may_be_resuming: bool) -> None:
    """60 MiB of Triton's own, five instances of 20 MiB, of which two are the minimum set."""
    full = host(160, each_mib=20, w025=2, w050=1, w075=1, w100=1)
    check(100, full)
    with pytest.raises(ConfigError) as error:
        check(30, full, may_be_resuming=may_be_resuming)
    assert str(error.value) == (
        "servers[a].limits.memory_budget_mib: a budget of 30 MiB can't hold the minimum set: 160 MiB are in use, of "
        "which about 60 MiB can be given back, and all is loaded; raise it to at least 100, or name fewer "
        "controller.minimum_widths"
    )


def test_what_is_missing_is_estimated_beside_widths_that_could_go() -> None:
    others = host(160, each_mib=20, w075=3, w100=2)
    check(60 + 320, others)
    with pytest.raises(ConfigError, match=r"of which about 100 MiB can be given back, and loading fashion_w025, "):
        check(60 + 319, others)


def test_a_dead_instance_gives_nothing_back() -> None:
    seen = host(120, each_mib=20, w025=1, w050=3)
    models = tuple(replace(m, live_instances=2 if m.name == W050 else None) for m in seen.models)
    check(100, replace(seen, models=models))
    with pytest.raises(ConfigError, match="about 20 MiB can be given back"):
        check(99, replace(seen, models=models))


def test_a_daemon_that_was_killed_starts_again_whatever_its_minimum_set_has_grown_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for grown in (host(900, each_mib=20, w025=1, w050=1), host(900, w025=1, w050=1)):
        caplog.clear()
        check(100, grown, may_be_resuming=True)
        assert "a budget of 100 MiB can't hold the minimum set" in caplog.text
        with pytest.raises(ConfigError):
            check(100, grown)


def test_a_daemon_that_was_killed_while_it_shed_starts_again_after_some_growth() -> None:
    shedding = host(145, each_mib=20, w025=1, w050=1, w100=1)  # 125 MiB would be left
    check(100, shedding, may_be_resuming=True)
    with pytest.raises(ConfigError):
        check(99, shedding, may_be_resuming=True)
    with pytest.raises(ConfigError):
        check(100, shedding)
