import os
import signal
import threading

import pytest

from resnet_jax.training.interruption import deferred_signals


def test_first_ctrl_c_is_recorded_and_the_second_raises():
    before = signal.getsignal(signal.SIGINT)
    with deferred_signals() as received_signal:
        assert not received_signal()
        os.kill(os.getpid(), signal.SIGINT)
        assert received_signal()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_no_signal_is_received_outside_the_main_thread():
    received = []

    def work():
        with deferred_signals() as received_signal:
            received.append(received_signal())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert received == [None]
