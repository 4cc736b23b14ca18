"""For all tests."""

import signal

# Whoever is started in the background by a shell without job control inherits that Ctrl-C is ignored, and so would the
# programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
