"""`karoo ctl` and `karoo top`: commands over a Unix socket, on both of its sides.

The proxy's side is `server` with `commands` and `socketfile`; that of the command line is `client` with `words` (text
for people), `main` (`karoo ctl`) and `top`.

A client says one line, a JSON object with `command` and, where it has some, `members`. It is answered in lines: one
with `answer` or `error`; or one with `list`, others with `items`, and a last one with `end`. What is in them has the
shapes of /api/v1. Then the connection ends.
"""
