"""`python -m karoo`, and the console script. gevent patches the standard library before anything else loads."""

import signal

# Ctrl-C while everything loads: no traceback. Commands set their own later.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from gevent import monkey  # noqa: E402

monkey.patch_all()

from karoo.cli import main  # noqa: E402  (after the patching)

if __name__ == "__main__":
    raise SystemExit(main())
