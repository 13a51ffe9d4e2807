"""`python -m karoo`, and the console script. gevent patches the standard library before anything else loads."""

from gevent import monkey

monkey.patch_all()

from karoo.cli import main  # noqa: E402  (after the patching)

if __name__ == "__main__":
    raise SystemExit(main())
