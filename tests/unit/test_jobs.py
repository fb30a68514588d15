"""Where an execution stands, judged by the states of its runs."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.domain.job import OVER, ExecutionState, Step, outlook, percent
from headrace.domain.run import ENDED, RunState

A, B, C = Step(task="a"), Step(task="b", after=("a",)), Step(task="c")
STEPS = (A, C, B)


def seen(runs, **how):
    found = outlook(
        STEPS, runs, stops=how.get("stops", False), cancelled=how.get("cancelled", False)
    )
    return found.state, {step.task for step in found.start}, {step.task for step in found.never}


def test_steps_start_when_those_before_have_succeeded():
    run = RunState
    assert seen({}) == ("queued", {"a", "c"}, set())
    assert seen({"a": run.RUNNING, "c": run.QUEUED}) == ("running", set(), set())
    assert seen({"a": run.SUCCEEDED, "c": run.RUNNING}) == ("running", {"b"}, set())
    assert seen({"a": run.SKIPPED, "c": run.SUCCEEDED}) == ("running", {"b"}, set())


def test_a_failed_step_keeps_its_dependents_from_starting_but_no_sibling():
    run = RunState
    assert seen({"a": run.FAILED}) == ("running", {"c"}, {"b"})
    assert seen({"a": run.FAILED, "c": run.SUCCEEDED}) == ("failed", set(), {"b"})
    assert seen({"a": run.FAILED}, stops=True) == ("failed", set(), {"b", "c"})
    assert seen({"a": run.SUCCEEDED, "c": run.FAILED}) == ("running", {"b"}, set())


def test_a_task_that_is_gone_never_starts_nor_what_waits_for_it():
    found = outlook(STEPS, {"c": RunState.SUCCEEDED}, stops=False, cancelled=False, gone={"a"})
    assert (found.state, found.start, {step.task for step in found.never}) == (
        "failed",
        (),
        {"a", "b"},
    )


def test_ends_are_told_apart():
    run = RunState
    whole = {"a": run.SUCCEEDED, "b": run.SUCCEEDED, "c": run.SUCCEEDED}
    assert seen(whole)[0] == "succeeded"
    assert seen(whole | {"c": run.SKIPPED})[0] == "succeeded"
    assert seen(dict.fromkeys("abc", run.SKIPPED))[0] == "skipped"
    assert seen(whole | {"c": run.CANCELLED})[0] == "cancelled"
    assert seen(whole | {"c": run.FAILED})[0] == "failed"
    assert seen({"a": run.CANCELLED}, cancelled=True) == ("cancelled", set(), {"b", "c"})
    assert seen({"a": run.CANCELLING}, cancelled=True) == ("running", set(), {"b", "c"})
    assert outlook((), {}, stops=False, cancelled=False).state == "succeeded"


@given(st.data())
def test_every_execution_ends_whatever_its_runs_do(data):
    size = data.draw(st.integers(1, 7))
    steps = [
        Step(
            task=str(n),
            after=tuple(data.draw(st.sets(st.sampled_from([str(m) for m in range(n)]))))
            if n
            else (),
        )
        for n in range(size)
    ]
    stops, runs, last, cancelled = data.draw(st.booleans()), {}, 0, False
    for _ in range(10 * size):
        cancelled = cancelled or data.draw(st.integers(0, 20)) == 0
        found = outlook(steps, runs, stops=stops, cancelled=cancelled)
        share = percent(
            steps,
            {task: 1.0 if state in ENDED else 0.5 for task, state in runs.items()},
            found.state,
        )
        assert max(last, share) <= 100
        last = max(last, share)
        if found.state in OVER:
            assert all(state in ENDED for state in runs.values())
            assert {step.task for step in found.never} | set(runs) == {step.task for step in steps}
            assert share == 100
            return
        assert share < 100
        for step in found.start:
            assert step.task not in runs
            assert all(runs[one] in (RunState.SUCCEEDED, RunState.SKIPPED) for one in step.after)
            runs[step.task] = RunState.QUEUED
        for task, state in runs.items():
            if state is RunState.QUEUED:
                runs[task] = RunState.RUNNING
            elif state is RunState.RUNNING:
                runs[task] = data.draw(st.sampled_from(sorted(ENDED)))
    raise AssertionError("it never ended")


def test_percent_is_whole_only_at_the_end():
    assert percent(STEPS, {}, ExecutionState.QUEUED) == 0
    assert percent(STEPS, {}, ExecutionState.RUNNING) == 1
    assert percent(STEPS, dict.fromkeys("abc", 1.0), ExecutionState.RUNNING) == 99
    assert percent(STEPS, {}, ExecutionState.FAILED) == 100
