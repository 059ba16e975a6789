"""What interrupts a change arrives after it, or before it has begun: signals, and exceptions from other threads."""

import ctypes
import gc
import os
import random
import signal
import sys
import threading
import time

import pytest

from hopfield_replay.utilities.interrupts import to_the_end


def raise_in(thread, kind):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


@pytest.fixture(autouse=True)
def no_collector():
    """No garbage collection: what is raised in a callback of the collector (hypothesis has one) is swallowed."""
    gc.disable()
    yield
    gc.enable()


class Stop(BaseException):
    """What a library that limits time raises in another thread."""


@pytest.fixture
def handled():
    """Handlers of the user's own for three signals; what they were called with."""
    calls = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, lambda number, frame: calls.append((number, list(calls))))
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_result_and_the_error_of_a_change():
    before = threading.active_count()  # earlier tests may have left some
    assert to_the_end(lambda: 7) == 7
    assert to_the_end(lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        to_the_end(lambda: 1 / 0)
    assert threading.active_count() == before


def test_all_signals_wait_and_each_arrives_once(handled):
    def change():
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)
        time.sleep(0.05)
        assert handled == []
        handled.append("done")

    to_the_end(change)
    assert handled[0] == "done"
    assert sorted(number for number, _ in handled[1:]) == sorted((signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(handled) == 5  # as before


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Stop])
def test_a_handler_that_raises_does_so_after_the_change_and_keeps_no_other_from_its_call(handled, kind):
    def leave(number, frame):
        raise kind

    signal.signal(signal.SIGTERM, leave)
    steps = []

    def change():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
        steps.append("done")

    with pytest.raises(kind):
        to_the_end(change)
    assert steps == ["done"]
    assert [number for number, _ in handled] == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGTERM) is leave


def test_signals_that_are_ignored_or_have_no_handler_in_python_are_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        to_the_end(lambda: os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_change_in_a_change_is_a_part_of_it():
    threads = []

    def inner():
        threads.append(threading.current_thread())

    def outer():
        threads.append(threading.current_thread())
        to_the_end(inner)

    to_the_end(outer)
    assert threads[0] is threads[1] is not threading.main_thread()


def test_an_exception_of_another_thread_waits_too():
    steps = []

    def change():
        raise_in(threading.main_thread().ident, Stop)
        for _ in range(50):
            time.sleep(0.002)
        steps.append("done")

    with pytest.raises(Stop):
        to_the_end(change)
    assert steps == ["done"]


def test_in_other_threads_than_the_main_one():
    seen = []

    def work():
        try:
            to_the_end(lambda: (raise_in(thread.ident, Stop), time.sleep(0.1), seen.append("done")))
        except Stop:
            seen.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["done", "stopped"]


def lines_of(change, hit=None):
    """Run a function, and raise Stop in it before this line of its thread's work (counted over all files).

    Returns the number of lines that were counted, and whether it was stopped.
    """
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if event == "line":
            count += 1
            if count == hit:
                sys.settrace(None)
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        change()
        return count, False
    except Stop:
        return count, True
    finally:
        sys.settrace(before)


def test_hit_before_any_of_its_lines_a_change_is_whole_or_not_made():
    """The exception comes before every single line that the caller runs, those of threading included."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    before = threading.active_count()
    made, line = [], 0
    while True:
        line += 1
        state = [0, 0]

        def change(state=state):
            state[0] += 1
            time.sleep(0)
            state[1] += 1

        _, hit = lines_of(lambda change=change: to_the_end(change), line)
        made.append(tuple(state))
        if not hit:
            break
    assert line > 200
    assert set(made) == {(0, 0), (1, 1)}
    assert made[0] == (0, 0)
    assert made[-1] == (1, 1)
    for number, handler in handlers.items():
        assert signal.getsignal(number) == handler, number
    time.sleep(0.1)
    assert threading.active_count() == before


def test_a_storm_of_signals_and_exceptions(handled):
    draw, changes = random.Random(0), 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(300):
            state = [0, 0]

            def change(state=state):
                state[0] += 1
                time.sleep(0.0005)
                state[1] += 1

            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 2e-3))
                to_the_end(change)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            assert state in ([0, 0], [1, 1])
            changes += state[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert changes > 30
