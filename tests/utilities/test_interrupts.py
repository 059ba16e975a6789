"""Ctrl-C during a block arrives after it, once; outside of it, at once."""

import os
import signal
import threading

import pytest

from hopfield_replay.utilities.interrupts import interrupts_wait


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_block():
    steps = []

    def work():
        with interrupts_wait():
            steps.append("begun")
            interrupt()
            interrupt()
            steps.append("done")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["begun", "done"]
    with pytest.raises(KeyboardInterrupt):
        interrupt()  # as before


def test_an_error_in_the_block_and_no_interrupt():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), interrupts_wait():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_and_ignored_signals_are_left_alone():
    entered = []

    def work():
        with interrupts_wait():
            entered.append(threading.current_thread())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [thread]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_wait():
            interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
