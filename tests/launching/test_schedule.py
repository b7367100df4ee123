"""Which runs are due, by what number, and how the command line names runs and values."""

import pytest

from runmanager import RunManager, Sweep
from runmanager.launching.description import describe
from runmanager.launching.schedule import schedule
from runmanager.launching.sweep import SweepError
from runmanager.launching.texts import parse_set, parse_value
from runmanager.parameters import ParameterError
from runmanager.tracking.run_dir import SweepDir

PARAMS = {"lr": [0.1, 0.01], "batch_size": [10, 20], "shuffle": [True, False]}


def sweep_of(params=None):
    return Sweep(params or PARAMS, train=print, name="mine")


def schedule_of(tmp_path, *only, params=None, **options):
    return schedule(describe(sweep_of(params)), SweepDir(tmp_path, "mine"), only, **options)


def numbers(plan):
    return [one.number for one in plan.runs]


def track(tmp_path, run, *, complete=True):
    """Leaves a run as a launch would."""
    manager = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
    try:
        with manager.tracking(run):
            manager.log(value=1)
            if not complete:
                raise RuntimeError("broken")
    except RuntimeError:
        pass
    manager.close()


def test_at_first_all_runs_are_due_and_numbered_in_the_grids_order(tmp_path):
    plan = schedule_of(tmp_path)
    assert numbers(plan) == list(range(1, 9))
    assert [one.run for one in plan.due] == sweep_of().runs()
    assert plan.summary() == "8 runs: 8 to train"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("only", "found"),
    [
        (["3"], [3]),
        (["2-4"], [2, 3, 4]),
        (["1", "7-8"], [1, 7, 8]),
        (["1,3, 5"], [1, 3, 5]),
        (["lr=0.1"], [1, 2, 3, 4]),
        (["lr=1e-1"], [1, 2, 3, 4]),
        (["batch_size=20"], [3, 4, 7, 8]),
        (["shuffle=False"], [2, 4, 6, 8]),
        (["shuffle=true"], [1, 3, 5, 7]),
        (["lr=0.1,shuffle=False"], [2, 4]),
        (["lr=0.1", "shuffle=False"], [2, 4]),
        (["1-3", "shuffle=False"], [2]),
    ],
)
def test_runs_are_chosen_by_number_range_and_value(only, found, tmp_path):
    assert numbers(schedule_of(tmp_path, *only)) == found


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("9", "--only 9: there is no such run; the numbers go from 1 to 8"),
        ("0", "--only 0: there is no such run"),
        ("lr=0.5", "none of the 8 runs"),
        ("momentum=0.9", "--only momentum=0.9"),
        ("x", "--only x: give run numbers like 3 or 3-5, or a value like lr=..."),
        ("3-", "--only 3-"),
        ("-3", "--only -3"),
        ("", "--only"),
        ("5-3", "5-3"),
        ("1-²", "1-²"),
    ],
)
def test_what_names_no_run_is_refused(only, said, tmp_path):
    with pytest.raises(SweepError) as caught:
        schedule_of(tmp_path, only)
    assert said in str(caught.value)


def test_a_number_that_there_is_not_is_refused_beside_one_that_there_is(tmp_path):
    with pytest.raises(SweepError, match="99"):
        schedule_of(tmp_path, "1,99")


def test_a_class_is_chosen_by_its_name(tmp_path):
    assert numbers(schedule_of(tmp_path, "kind=dict", params={"kind": [list, dict]})) == [2]


def test_a_text_with_digits_is_chosen_as_text(tmp_path):
    assert numbers(schedule_of(tmp_path, "tag=007", params={"tag": ["7", "007"]})) == [2]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit, tmp_path):
    with pytest.raises(SweepError, match=f"--limit {limit}: give a whole number of 1 or more"):
        schedule_of(tmp_path, limit=limit)


def test_a_limit_counts_runs_that_are_due(tmp_path):
    track(tmp_path, sweep_of().runs()[0])
    plan = schedule_of(tmp_path, limit=2)
    assert [one.number for one in plan.due] == [2, 3]


def test_what_is_complete_is_skipped_and_what_failed_is_due_again_when_asked(tmp_path):
    runs = sweep_of().runs()
    track(tmp_path, runs[0])
    track(tmp_path, runs[1], complete=False)
    plan = schedule_of(tmp_path)
    assert [one.action for one in plan.runs[:3]] == ["skip (completed)", "skip (failed)", "train"]
    assert plan.summary() == "8 runs: 6 to train, 1 completed, 1 failed; --retry-failed tries those that failed again"
    plan = schedule_of(tmp_path, retried={"failed"})
    assert [one.action for one in plan.runs[:3]] == ["skip (completed)", "train again (failed)", "train"]
    assert plan.summary() == "8 runs: 7 to train, 1 completed"


def test_a_run_that_a_living_process_trains_is_left_to_it(tmp_path):
    manager = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
    manager.begin_run(sweep_of().runs()[0])
    try:
        plan = schedule_of(tmp_path)
        assert plan.runs[0].action == "running elsewhere"
        assert plan.summary() == "8 runs: 7 to train, 1 running elsewhere"
    finally:
        manager.close()
    assert schedule_of(tmp_path).runs[0].action == "train again (interrupted)"


def test_a_grid_that_grows_renumbers_nothing(tmp_path):
    for run in sweep_of({"lr": [0.1, 0.01]}).runs():
        track(tmp_path, run)
    plan = schedule_of(tmp_path, params={"lr": [1.0, 0.1, 0.05, 0.01]})
    assert [(one.run.lr, one.number, one.is_due) for one in plan.runs] == [
        (1.0, 3, True),
        (0.1, 1, False),
        (0.05, 4, True),
        (0.01, 2, False),
    ]


def test_runs_that_the_grid_no_longer_has_are_counted(tmp_path):
    for run in sweep_of({"lr": [0.1, 0.01]}).runs():
        track(tmp_path, run)
    assert (
        schedule_of(tmp_path, params={"lr": [0.1]}).summary() == "1 run: 0 to train, 1 completed, 1 no longer asked for"
    )


def test_a_parameter_in_another_place_of_the_grid_makes_no_new_run(tmp_path):
    track(tmp_path, sweep_of().runs()[0])
    plan = schedule_of(tmp_path, params=dict(reversed(PARAMS.items())))
    assert sum(one.is_due for one in plan.runs) == 7


@pytest.mark.parametrize(
    ("text", "like", "value"),
    [
        ("10", [100], 10),
        ("10", [0.1], 10.0),
        ("1e-3", [0.1], 0.001),
        ("0.5", [1], 0.5),
        ("true", [False], True),
        ("False", [True], False),
        ("none", [None, 0.1], None),
        ("10", ["adam"], "10"),
        ("True", ["adam"], "True"),
        ("sgd", ["adam"], "sgd"),
    ],
)
def test_a_value_gets_the_type_that_the_grid_has(text, like, value):
    parsed = parse_value(text, like)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("text", "like"), [("abc", [0.1]), ("", [0.1]), ("abc", [1, 2])])
def test_a_value_that_is_nothing_like_the_grids_own_is_refused(text, like):
    with pytest.raises(ParameterError):
        parse_set([f"lr={text}"], {"lr": like})


def test_settings_become_lists_of_values():
    assert parse_set(["lr=0.5,1", "shuffle=True", "name=a,b"], {**PARAMS, "name": ["c"]}) == {
        "lr": [0.5, 1.0],
        "shuffle": [True],
        "name": ["a", "b"],
    }


@pytest.mark.parametrize("setting", ["lr", "=1", ""])
def test_a_setting_of_another_form_is_refused(setting):
    with pytest.raises(ParameterError, match="write --set name=value"):
        parse_set([setting], PARAMS)


def test_a_setting_that_is_given_twice_is_refused():
    with pytest.raises(ParameterError, match=r"list its values in one: --set lr=v1,v2"):
        parse_set(["lr=1", "lr=2"], PARAMS)
