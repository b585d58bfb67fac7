"""Tests of the one thread that runs all trials of a process."""

import gc
import threading
import weakref
from collections.abc import Generator

import pytest

from search.driver.working_thread import on_one_thread


def idents(number: int) -> Generator[int]:
    for _ in range(number):
        yield threading.get_ident()


def test_generators_of_several_threads_run_on_one_other_thread() -> None:
    found: list[int] = []
    callers = [threading.Thread(target=lambda: found.extend(on_one_thread(idents(2)))) for _ in range(3)]
    for caller in callers:
        caller.start()
        caller.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert found[0] not in {threading.get_ident(), *(caller.ident for caller in callers)}


def test_the_exception_of_a_generator_reaches_its_caller_and_the_next_one_runs() -> None:
    def failing() -> Generator[int]:
        yield 1
        raise KeyError("x")

    rows = on_one_thread(failing())
    assert next(rows) == 1
    with pytest.raises(KeyError, match="x"):
        next(rows)
    assert len(list(on_one_thread(idents(2)))) == 2


def test_the_objects_of_an_ended_generator_are_freed() -> None:
    class Model:
        pass

    def work(model: Model) -> Generator[Model]:
        yield model

    model = Model()
    reference = weakref.ref(model)
    list(on_one_thread(work(model)))
    list(on_one_thread(idents(1)))
    del model
    gc.collect()
    assert reference() is None
