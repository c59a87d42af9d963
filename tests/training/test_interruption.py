import os
import signal
import threading

import pytest

from resnet_jax.errors import Preempted
from resnet_jax.training.interruption import deferred_signals, raise_preempted_on_signal


def test_first_ctrl_c_is_recorded_and_the_second_raises():
    before = signal.getsignal(signal.SIGINT)
    with deferred_signals() as received_signal:
        assert not received_signal()
        os.kill(os.getpid(), signal.SIGINT)
        assert received_signal()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_preemption_and_closed_terminal_are_recorded_within_the_loop_and_raise_outside(signum):
    before = signal.signal(signum, signal.SIG_DFL)  # If the tests were started with nohup, SIGHUP is ignored.
    try:
        with raise_preempted_on_signal():
            with deferred_signals() as received_signal:
                signal.raise_signal(signum)
                assert received_signal() == signum
            with pytest.raises(Preempted):
                signal.raise_signal(signum)
        assert signal.getsignal(signum) is signal.SIG_DFL
    finally:
        signal.signal(signum, before)


def test_process_started_with_nohup_keeps_ignoring_that_the_terminal_closes():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_preempted_on_signal(), deferred_signals() as received_signal:
            signal.raise_signal(signal.SIGHUP)
            assert received_signal() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_signal_is_received_outside_the_main_thread():
    received = []

    def work():
        with deferred_signals() as received_signal:
            received.append(received_signal())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert received == [None]
