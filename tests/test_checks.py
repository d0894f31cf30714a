"""``check`` names the mistake. The second half holds every exercise of the book to the same demands."""

import re

import numpy as np
import pytest
import torch

from seglib.book.checks import check, examine, yours
from seglib.book.exercise import Exercise, Hint, compare, difference, expect
from seglib.book.exercises import CHECKS
from seglib.book.exercises.verify import trains_all


def dice(a, b):
    total = a.sum() + b.sum()
    return 2 * (a & b).sum() / total if total else torch.tensor(1.0)


def iou(a, b):
    return (a & b).sum() / (a | b).sum() if (a | b).any() else torch.tensor(1.0)


def nan_when_empty(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def half(a, b):
    return dice(a, b) / 2


def masks():
    g = torch.Generator().manual_seed(0)
    empty = torch.zeros(4, 4, dtype=torch.bool)
    return {
        "random masks": tuple(torch.rand(2, 6, 6, generator=g) > 0.5),
        "two empty masks": (empty, empty),
    }


def is_dotted(name):
    expect(isinstance(name, str), "Give the name as text.")
    expect("." in name, "The name has no dot.")
    expect(not name.startswith("."), "The name starts with a dot.")


EXAMPLES = {
    "ex.dice": Exercise(
        solution=dice,
        probes=masks,
        wrong={
            "iou": (iou, "That is the IoU; Dice counts the overlap twice."),
            "empty": (nan_when_empty, "Two empty masks agree perfectly: 0 / 0 must give 1."),
            "half": (half, "The factor 2 is missing."),
        },
        hint="Compare with the formula once more.",
    ),
    "ex.predict": Exercise(
        solution=0.25,
        wrong={
            "half": (0.5, "You divided by the target alone."),
            "more": (4.0, "The fraction is upside down."),
            "percent": (25, "That is a percentage; a fraction is wanted."),
        },
        hint="Count the cells of the union again.",
    ),
    "ex.class": Exercise(
        solution=torch.nn.ReLU,
        probes=lambda: {"a ramp": (torch.linspace(-8, 8, 9),)},
        run=lambda cls, x: cls()(x),
        wrong={
            "none": (torch.nn.Identity, "Negative values must become 0."),
            "six": (torch.nn.ReLU6, "Large values are cut off."),
            "abs": (lambda: torch.abs, "Negative values are mirrored."),
        },
    ),
    "ex.own": Exercise(
        solution="a.b",
        verify=is_dotted,
        compared=False,
        wrong={
            "number": (3, "Give the name as text."),
            "plain": ("ab", "The name has no dot."),
            "hidden": (".ab", "The name starts with a dot."),
        },
    ),
}


def say(name, attempt):
    return examine(name, attempt, EXAMPLES).message


def test_a_right_attempt_is_called_correct():
    assert say("ex.dice", lambda a, b: float(dice(a, b))) == "ex.dice: correct."


def test_an_unknown_mistake_names_the_case_the_answer_and_the_general_hint():
    message = say("ex.dice", lambda a, b: dice(a, b) * 3)
    assert "For random masks, your answer is " in message
    assert message.endswith("Compare with the formula once more.")


def test_a_wrong_prediction_never_learns_the_right_value():
    message = say("ex.predict", 0.3)
    assert message == "ex.predict: not right yet. Count the cells of the union again."
    assert "0.25" not in message


@pytest.mark.parametrize("blank", [None, ..., (0.5, ...), [...]])
def test_a_blank_is_not_attempted(blank):
    assert say("ex.predict", blank) == "ex.predict: not attempted yet."


def test_the_readers_exception_is_reported_in_one_line_and_names_the_case():
    def broken(a, b):
        raise KeyError("two\nlines")

    assert (
        say("ex.dice", broken) == r"ex.dice: not right yet. For random masks, your code raised KeyError: 'two\nlines'."
    )

    def failed_when_empty(a, b):
        if not (a | b).any():
            raise RuntimeError("two\n  lines")
        return dice(a, b)

    assert say("ex.dice", failed_when_empty) == (
        "ex.dice: not right yet. For two empty masks, your code raised RuntimeError: two lines."
    )


def test_a_known_mistake_that_raises_gets_its_hint_behind_the_case():
    def divides(a, b):
        return 2 * int((a & b).sum()) / int(a.sum() + b.sum())

    exercise = Exercise(solution=dice, probes=masks, wrong={"zero": (divides, "Two empty masks agree perfectly.")})
    message = examine("x", lambda a, b: divides(a, b), {"x": exercise}).message
    assert message == (
        "x: not right yet. For two empty masks, your code raised ZeroDivisionError: division by zero. "
        "Two empty masks agree perfectly."
    )


def test_an_assertion_of_the_reader_is_an_exception_and_no_hint():
    def asserts(a, b):
        assert a is None

    assert "your code raised AssertionError: " in say("ex.dice", asserts)


def test_a_not_implemented_error_of_torch_is_an_exception_and_no_stub():
    def asks_too_much(a, b):
        return torch.nn.Module()(a)

    assert "For random masks, your code raised NotImplementedError: Module" in say("ex.dice", asks_too_much)


def test_a_wrong_prediction_of_several_parts_is_judged_part_by_part():
    exercise = Exercise(
        solution=(2, 3, 4),
        wrong={
            "all doubled": ((4, 6, 8), "You counted everything twice."),
            "doubled": ((2, 6, 4), "You counted both sides."),
            "swapped": ((3, 2, 4), "The other way round."),
        },
        hint="Count again.",
    )

    def message(*attempt):
        return examine("x", attempt, {"x": exercise}).message

    assert message(2, 6, 4) == "x: not right yet. You counted both sides."
    assert message(2, 6, 9) == "x: not right yet. Right: answer 1. Wrong: answers 2 and 3. You counted both sides."
    assert message(4, 3, 4) == "x: not right yet. Right: answers 2 and 3. Wrong: answer 1. Count again."
    assert message(3, 2, 4) == "x: not right yet. The other way round."
    assert message(1, 7, 9) == "x: not right yet. Wrong: answers 1, 2 and 3. Count again."
    assert examine("x", torch.tensor([2, 3, 4]), {"x": exercise}).passed
    assert message(2, 3) == "x: not right yet. Count again."


def test_a_wrong_prediction_without_a_general_hint_hears_its_own_answer():
    exercise = Exercise(solution=(2, 3), wrong={})
    assert examine("x", (2, 4), {"x": exercise}).message == "x: not right yet. Right: answer 1. Wrong: answer 2."
    exercise = Exercise(solution=3, wrong={})
    assert examine("x", 4, {"x": exercise}).message == "x: not right yet. Your answer is 4."


def test_a_value_for_a_function_and_a_function_for_a_value_are_told_apart():
    assert "A function or class is wanted here, not 0.5." in say("ex.dice", 0.5)
    assert "not a function" in say("ex.predict", lambda: 0.25)


def test_an_attempt_that_changes_its_inputs_does_not_spoil_the_others():
    def destructive(a, b):
        result = dice(a, b)
        a.zero_()
        b.zero_()
        return result

    assert examine("ex.dice", destructive, EXAMPLES).passed


def test_arguments_are_copied_for_every_run_even_when_probes_share_them():
    shared = torch.arange(4.0)
    exercise = Exercise(
        solution=lambda x, y: x + y,
        probes=lambda: {"the same twice": (shared, shared), "a view": (shared[1:], torch.ones(1).expand(3))},
        wrong={"first": (lambda x, y: x.mul_(2), "You add x twice."), "zero": (lambda x, y: x.zero_(), "Not nothing.")},
    )

    def in_place(x, y):
        x += y
        y.zero_()
        return x

    for _ in range(2):
        assert examine("x", in_place, {"x": exercise}).passed
    assert shared.tolist() == [0, 1, 2, 3]


def test_an_answer_that_is_used_again_is_judged_as_it_was_returned():
    buffer = torch.zeros(3)
    exercise = Exercise(
        solution=lambda k: torch.full((3,), float(k)), probes=lambda: {f"k = {k}": (k,) for k in (1, 2)}, wrong={}
    )
    assert examine("x", lambda k: buffer.fill_(k), {"x": exercise}).passed


def numpy_halves(x, parts):
    x *= 0.5  # in the reader's own copy
    return np.asarray(x), [p.tolist() for p in parts]


def halves(x, parts):
    return x * 0.5, list(parts)


HALVES = Exercise(
    solution=halves,
    probes=lambda: {"numbers": (torch.arange(4.0), [torch.ones(2), torch.zeros(1)])},
    wrong={"same": (lambda x, parts: (x, list(parts)), "Half of it.")},
)


def test_later_cells_call_the_solution_where_the_readers_answer_is_not_right(monkeypatch):
    monkeypatch.setitem(CHECKS, "ex.halves", HALVES)
    with pytest.raises(ValueError, match="there is no exercise"):
        yours("ex.absent", halves, halves)

    def stub(x, parts):
        raise NotImplementedError

    assert yours("ex.halves", stub, halves) is halves
    assert yours("ex.halves", lambda x, parts: (x, parts), halves) is halves


def test_later_cells_call_the_readers_answer_in_the_form_of_the_solutions(monkeypatch):
    monkeypatch.setitem(CHECKS, "ex.halves", HALVES)
    calls = []

    def counted(x, parts):
        calls.append(x)
        return numpy_halves(x, parts)

    mine = yours("ex.halves", counted, halves)
    calls.clear()
    x = torch.tensor([2.0, 6.0])
    value, parts = mine(x, [x])
    assert len(calls) == 1 and torch.equal(x, torch.tensor([2.0, 6.0]))
    torch.testing.assert_close(value, torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(parts, [x])


def test_where_a_gradient_is_needed_an_answer_without_one_is_replaced(monkeypatch):
    monkeypatch.setitem(CHECKS, "ex.halves", HALVES)
    x = torch.ones(3, requires_grad=True)
    for attempt in (
        numpy_halves,
        lambda x, parts: (x.detach() * 0.5, parts),
        lambda x, parts: (x / 2, parts),
        lambda x, parts: [x / 2, parts],
    ):
        mine = yours("ex.halves", attempt, halves)
        for _ in range(2):
            value, _ = found = mine(x, [torch.ones(1)])
            (grad,) = torch.autograd.grad(value.sum(), x)
            torch.testing.assert_close(grad, torch.full((3,), 0.5))
            assert isinstance(found, tuple)


def test_where_no_gradient_is_needed_an_answer_leaves_its_graph(monkeypatch):
    monkeypatch.setitem(CHECKS, "ex.halves", HALVES)
    factor = torch.tensor(0.5, requires_grad=True)
    value, _ = yours("ex.halves", lambda x, parts: (x * factor, parts), halves)(torch.ones(3), [])
    assert not value.requires_grad and value.tolist() == [0.5] * 3


def test_an_unknown_name_lists_close_ones():
    with pytest.raises(ValueError, match=r"no exercise 'ex\.dise'; did you mean 'ex\.dice'"):
        examine("ex.dise", dice, EXAMPLES)


def test_check_prints_one_line_and_raises_only_when_required(capsys, monkeypatch):
    monkeypatch.setitem(CHECKS, "ex.dice", EXAMPLES["ex.dice"])
    check("ex.dice", dice, required=True)
    check("ex.dice", half)
    assert capsys.readouterr().out == "ex.dice: correct.\nex.dice: not right yet. The factor 2 is missing.\n"
    with pytest.raises(AssertionError, match=re.escape("ex.dice: not right yet. The factor 2 is missing.")):
        check("ex.dice", half, required=True)
    with pytest.raises(AssertionError, match="not attempted yet"):
        check("ex.dice", ..., required=True)


def test_the_shape_of_the_code_follows_from_the_second_wrong_try_on(capsys, monkeypatch):
    exercise = Exercise(
        solution=dice,
        probes=masks,
        wrong={},
        sketch="""
        overlap = ...
        return 2 * overlap / ...
    """,
    )
    monkeypatch.setitem(CHECKS, "ex.sketched", exercise)

    def printed(attempt):
        check("ex.sketched", attempt)
        return capsys.readouterr().out

    shape = "The shape of it:\n    overlap = ...\n    return 2 * overlap / ...\n"
    assert shape not in printed(half)
    assert shape not in printed(...)  # a stub is no try
    assert printed(half).endswith(shape)
    assert printed(iou).endswith(shape)
    assert printed(dice) == "ex.sketched: correct.\n"
    assert shape not in printed(half)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (1, 1.0),
        (["B", "D"], "BD"),
        ({"D", "b"}, "BD"),
        ("B, D", "BD"),
        ([torch.tensor(1.0), torch.tensor(2.0)], torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0], dtype=torch.bfloat16), 1.0),
        (torch.tensor(2.0), 2),
        (torch.tensor([2.0]), 2),
        (float("nan"), float("nan")),
        ([[1, 2]], torch.tensor([[1.0, 2.0]])),
        ([[torch.ones(2, requires_grad=True)]], torch.ones(1, 1, 2)),
        (torch.tensor([1, 2]), (1, 2)),
        ("Road ", "road"),
        ({"a": 1.0}, {"a": torch.tensor(1)}),
        ((1, "x"), [1, "X"]),
        ({1, 2}, {2, 1}),
        (torch.zeros(0, 4), torch.zeros(0, 4)),
    ],
)
def test_equal_values_do_not_differ(got, want):
    assert difference(got, want) is None


@pytest.mark.parametrize(
    ("got", "want", "said"),
    [
        (1, 2, "your answer is 1 where 2 is right"),
        (0.5, float("nan"), "your answer is 0.5 where nan is right"),
        (torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), "your answer at [1] is 3 where 2 is right"),
        (torch.zeros(2, 3), torch.zeros(3, 2), "your answer has shape (2, 3) where shape (3, 2) is wanted"),
        (torch.zeros(2), 0.0, "your answer has shape (2,) where a single number is wanted"),
        (None, torch.zeros(2), "your answer is None where a tensor is wanted"),
        ("two", 2, "your answer is 'two' where a number is wanted"),
        ("sky", "road", "your answer is 'sky' where 'road' is right"),
        ((1, 2), (1, 2, 3), "your answer has 2 items where 3 are wanted"),
        ((1, 5), (1, 2), "your answer is 5 where 2 is right"),
        ({"a": 1}, {"b": 1}, "your dict has the keys ['a'] where ['b'] are right"),
        (4, {"b": 1}, "your answer is 4 where a dict is wanted"),
    ],
)
def test_a_difference_is_said_in_words(got, want, said):
    assert difference(got, want) == said


def test_compare_rejects_with_its_hint():
    exercise = Exercise(solution=1, wrong={}, compared=False, verify=lambda v: compare(v, 1, "Count again."))
    assert examine("x", 2, {"x": exercise}).message == "x: not right yet. Count again."


# Every exercise of the book, and the examples above: add data to seglib/book/exercises and these tests cover it.

ALL = {**EXAMPLES, **CHECKS}
MISTAKES = [(name, mistake) for name, exercise in ALL.items() for mistake in exercise.wrong]


def unwritten(*args, **kwargs):
    raise NotImplementedError


@pytest.mark.parametrize("name", ALL)
def test_the_solution_passes(name):
    assert examine(name, ALL[name].solution, ALL).message == f"{name}: correct."


@pytest.mark.parametrize("name", ALL)
def test_the_stub_is_not_attempted(name):
    stubs = [..., unwritten] if callable(ALL[name].solution) else [...]
    for stub in stubs:
        assert examine(name, stub, ALL).message == f"{name}: not attempted yet."


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_planted_mistake_gets_its_own_hint(name, mistake):
    attempt, hint = ALL[name].wrong[mistake]
    outcome = examine(name, attempt, ALL)
    assert not outcome.passed
    crashed = r"(For [^\n]+, your code raised [^\n]+\. )?"  # a mistake may be one that raises
    assert re.fullmatch(rf"{re.escape(name)}: not right yet\. {crashed}{re.escape(hint)}", outcome.message)
    assert "\n" not in outcome.message


@pytest.mark.parametrize("name", ALL)
def test_an_exercise_knows_at_least_three_mistakes_with_distinct_hints(name):
    hints = [hint for _, hint in ALL[name].wrong.values()]
    assert len(hints) >= 3
    assert len(set(hints)) == len(hints)
    assert ALL[name].hint not in hints


@pytest.mark.parametrize(("name", "answer"), [(name, a) for name, exercise in ALL.items() for a in exercise.right])
def test_a_right_answer_of_another_form_passes(name, answer):
    for _ in range(2):  # the first run may leave nothing behind that fails the second
        assert examine(name, ALL[name].right[answer], ALL).message == f"{name}: correct."


@pytest.mark.parametrize("name", CHECKS)
def test_an_exercise_lists_two_right_answers_of_other_forms_and_the_shape_of_its_code(name):
    assert len(CHECKS[name].right) >= 2
    assert CHECKS[name].sketch.strip()


@pytest.mark.parametrize(
    ("attempt", "right"),
    [
        (lambda x: x + x * x, True),
        (lambda x: x * (1 + x), True),
        (lambda x: x.detach() + x * x, False),
        (lambda x: (x + x * x).detach().requires_grad_(), False),
    ],
)
def test_a_gradient_that_comes_on_some_ways_alone_is_refused(attempt, right):
    verify = trains_all(lambda x: x + x * x, lambda: {"one": (torch.tensor([1.0, 2.0]),)}, ["no gradient"])
    if right:
        verify(attempt)
    else:
        with pytest.raises(Hint, match="no gradient"):
            verify(attempt)
