"""`python -m karoo`, and the console script. gevent patches the standard library before anything else loads."""

import signal
import sys

# Ctrl-C while everything loads: no traceback. Commands set their own later.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# A proxy that is just started anew must not be ended by who has it read its configuration or open its log again: these
# signals wait until the service takes them, and none is lost. For other commands they mean what they always do.
if sys.argv[1:2] == ["run"] or "".join(sys.argv[1:2]).startswith(("-c", "--config")):
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1))

from gevent import monkey  # noqa: E402

monkey.patch_all()

from karoo.cli import main  # noqa: E402  (after the patching)

if __name__ == "__main__":
    raise SystemExit(main())
