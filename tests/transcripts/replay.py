"""Transcripts: a miner's dialogue with the proxy as a text file, and its replay against a live one.

One line is one step; `#` begins a comment, blank lines are passed over.

    > LINE          the miner sends this line, byte for byte
    + LINE          and this one in the same packet as the line above
    < LINE          this line comes next, byte for byte, within 5 seconds
    set NAME VALUE  before the first `connect`: an option of the simulated pool (`pool.extranonce2_size`) or of the
                    proxy (`proxy.vardiff.min_diff`)
    connect         the miner connects, for the first time or again
    disconnect      the miner closes the connection
    closed          the proxy has closed the connection
    crlf            from here on the miner ends its lines with CR LF
    cut N           the next packet goes in two pieces, the first N bytes long
    find WHAT ...   the miner finds a share of its newest job: `pool` is one that reaches the pool's difficulty, `easy`
                    one that reaches only the miner's, `A..B` one of difficulty A at least and below B. Further words:
                    `bits=HEX` rolled version bits as in BIP 310, `xor=HEX` the same XORed into the job's version,
                    `nonce=unpadded` no zeros in front of the nonce, `job=NAME` of the job that is ${NAME}
    differ A B      ${A} is not ${B}
    pool COMMAND    something happens at the pool, and the proxy has heard of it; the commands are the last thing here
    pool accepted [PARAMS], pool refused CODE [PARAMS]
                    the next mining.submit that the pool got, and its verdict

`${name}` stands for a value. In a `<` line a name without a value takes what stands in its place (how that must look
goes by the letters that it begins with: ${job2} looks like ${job}), a name with a value must be there again. ${any}
is anything, ${work} all of a job between its id and its ntime. `find` sets ${e2}, ${nonce} and ${bits} for
mining.submit, and what the pool must see of them: ${pool_e2}, ${pool_nonce}, ${pool_bits}.

What comes and is not listed fails the replay, at its end too; so does a submit at the pool that is not listed.
"""

import ast
import json
import re
from time import monotonic

from karoo.sim.scripted import ScriptedMiner
from karoo.stratum.share import rolled_version

PATIENCE = 5.0  # seconds for whatever must happen
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_HEX = "[0-9a-f]"
_ANONYMOUS = {
    "any": ".*",
    "work": f'"{_HEX}{{64}}","(?:{_HEX}{{2}})+","(?:{_HEX}{{2}})+",\\[(?:"{_HEX}{{64}}",?)*(?<!,)\\],'
            f'"{_HEX}{{8}}","{_HEX}{{8}}"',
}
_LOOKS = {"extranonce": f"(?:{_HEX}{{2}})+", "session": f"{_HEX}+", "job": '[^"]+', "ntime": f"{_HEX}{{8}}"}


class Miner(ScriptedMiner):
    """Sends lines as they are, and knows all the same what their answers mean."""

    def say(self, packet, lines):
        for line in lines:
            message = json.loads(line)
            if message["id"] is not None:
                self._expect(message["method"], message["id"])
        self.send_bytes(packet)


class Replay:
    """One transcript against one pool and one proxy."""

    def __init__(self, site, path):
        self._site, self._path = site, path
        self._settings = {"pool": {}, "proxy": {}}
        self._values = {}
        self._miner = Miner()
        self._heard = 0  # lines to the miner that were listed
        self._judged = 0  # submits at the pool that were listed
        self._syncs = 0
        self.line_end, self.cut = "\n", 0
        self.pool = self.proxy = None

    def run(self):
        """Raises AssertionError with the place in the transcript."""
        where = ""
        try:
            for number, verb, text in read(self._path):
                where = f"{self._path.name}:{number}: {verb} {text}"
                VERBS[verb](self, text)
            where = f"{self._path.name}: the end"
            self._nothing_more()
            assert self._judged == len(self.pool.shares), f"the pool got {self.pool.shares[self._judged].params}"
            assert self.pool.books.accepted, "no share was accepted by the pool"
        except AssertionError as failure:
            raise AssertionError(f"{where}\n{failure}") from None

    # ------------------------------------------------------------------ the parts

    def set(self, text):
        name, value = text.split(maxsplit=1)
        *sections, option = name.split(".")
        settings = self._settings
        for section in sections:
            settings = settings.setdefault(section, {})
        settings[option] = _literal(value)

    def connect(self, _):
        if self.pool is None:
            self.pool = self._site.pool(**self._settings["pool"])
            self.proxy = self._site.proxy(self.pool, **self._settings["proxy"])
            self._site.miners.append(self._miner)
        self._miner.connect("127.0.0.1", self.proxy.listener.port)

    def disconnect(self, _):
        self._nothing_more()
        self._miner.close()

    def closed(self, _):
        self._miner.wait_closed(PATIENCE)
        assert not self._unheard(), f"before the end came {self._unheard()}"

    # ------------------------------------------------------------------ lines

    def say(self, lines):
        lines = [self._fill(line) for line in lines]
        packet = "".join(line + self.line_end for line in lines).encode()
        if self.cut:
            head, packet, self.cut = packet[:self.cut], packet[self.cut:], 0
            before = monotonic()
            self._miner.send_bytes(head)
            self._site.wait(lambda: any(session.conn.last_heard >= before for session in self.proxy.sessions.values()),
                            PATIENCE, "the proxy to read the first piece")
        self._miner.say(packet, lines)

    def hear(self, text):
        self._miner.wait(lambda: self._unheard() or self._miner.closed, PATIENCE, "a line")
        assert self._unheard(), f"the connection is closed; the last lines were {self._miner.lines[-3:]}"
        line = self._miner.lines[self._heard].decode()
        self._heard += 1
        match = re.fullmatch(self._pattern(text), line)
        assert match, f"came instead:\n{line}"
        self._values.update(match.groupdict())

    def _unheard(self):
        return self._miner.lines[self._heard:]

    def _nothing_more(self):
        """Nothing that is not listed is there, or on its way from the pool or the proxy."""
        self.sync()
        if not self._miner.closed:
            self._miner.say(b'{"id":"hush","method":"mining.ping","params":[]}\n', [])
            self.hear('{"id":"hush","result":"pong","error":null}')
        assert not self._unheard(), f"came unlisted: {self._unheard()}"

    def _pattern(self, text):
        """The regular expression of a `<` line; its groups are the names without a value."""
        pieces = _PLACEHOLDER.split(text)
        pieces[::2] = map(re.escape, pieces[::2])
        taken = set()
        for i in range(1, len(pieces), 2):
            name = pieces[i]
            if name in _ANONYMOUS:
                pieces[i] = _ANONYMOUS[name]
            elif name in self._values:
                pieces[i] = re.escape(self._values[name])
            elif name in taken:
                pieces[i] = f"(?P={name})"
            else:
                taken.add(name)
                pieces[i] = f"(?P<{name}>{_LOOKS[re.match('[a-z]+', name)[0]]})"
        return "".join(pieces)

    def _fill(self, text):
        return _PLACEHOLDER.sub(lambda match: self._value(match[1]), text)

    def _value(self, name):
        assert name in self._values, f"${{{name}}} has no value"
        return self._values[name]

    def differ(self, text):
        first, second = map(self._value, text.split())
        assert first != second, f"both are {first}"

    # ------------------------------------------------------------------ shares

    def find(self, text):
        what, *words = text.split()
        how = dict(word.split("=") for word in words)
        if what in ("pool", "easy"):
            lowest, highest = {"pool": (self.pool.difficulty, None),
                               "easy": (self._miner.difficulty, self.pool.difficulty)}[what]
        else:
            lowest, highest = map(float, what.split(".."))
        job = self._miner.job
        if "job" in how:
            job = next(job for job in self._miner.jobs if job.wire_id == self._value(how["job"]))
        bits = how.get("xor") or how.get("bits")
        share = self._miner.find_share(lowest, at_most=highest, job=job, version_bits=bits and int(bits, 16),
                                       xor="xor" in how)
        e2, e1_size = share.extranonce2.hex(), self.pool.options.extranonce1_bytes
        self._values |= {"e2": e2, "pool_e2": job.extranonce1[e1_size:].hex() + e2, "pool_nonce": f"{share.nonce:08x}",
                         "nonce": f"{share.nonce:x}" if how.get("nonce") == "unpadded" else f"{share.nonce:08x}"}
        if bits:
            rolled, version = int(bits, 16), job.notify.version
            version = version ^ rolled if "xor" in how else rolled_version(version, self._miner.mask, rolled)
            self._values |= {"bits": bits, "pool_bits": f"{version & self.pool.options.version_mask:08x}"}

    # ------------------------------------------------------------------ the pool

    def at_pool(self, text):
        name = max((name for name in COMMANDS if f"{text} ".startswith(f"{name} ")), key=len, default=None)
        assert name, "there is no such command"
        COMMANDS[name](self, text[len(name):].strip())
        self.sync()

    def sync(self):
        """The proxy has dealt with all that the pool sent."""
        if self.pool.connections and self.proxy.routes.routes[0].is_up:
            self._syncs += 1
            name = f"sync {self._syncs}"
            self.pool.send_to_all(json.dumps({"id": name, "method": "mining.ping", "params": []}).encode())
            self.pool.wait(lambda: any(f'"{name}"'.encode() in line for line in self.pool.lines), PATIENCE)

    def pool_stops(self, _):
        self.pool.stop()
        self._site.wait(lambda: not self.proxy.routes.routes[0].is_up, PATIENCE, "the proxy to notice")

    def pool_comes_back(self, text):
        self.pool.stop()
        self.pool.forget()
        for name, value in (word.split("=") for word in text.split()):
            setattr(self.pool if name == "difficulty" else self.pool.options, name, _literal(value))
        self.pool.start()

    def pool_judged(self, code, params):
        self.pool.wait(lambda: len(self.pool.shares) > self._judged, PATIENCE)
        share = self.pool.shares[self._judged]
        self._judged += 1
        assert share.params == json.loads(self._fill(params)), f"the pool got {share.params}"
        assert share.code == code, f"the pool says {share.code} {share.message}"


def read(path):
    """The steps of a transcript: number of the line, verb, text; the text of `>` is the list of the packet's lines."""
    steps = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        verb, _, text = line.partition(" ")
        if not line.strip() or verb.startswith("#"):
            continue
        if verb == "+":
            assert steps[-1][1] == ">", f"{path.name}:{number}: + goes with a line that the miner sends"
            steps[-1][2].append(text)
        else:
            assert verb in VERBS, f"{path.name}:{number}: what is {verb!r}?"
            steps.append((number, verb, [text] if verb == ">" else text))
    return steps


def _literal(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


VERBS = {
    ">": Replay.say,
    "<": Replay.hear,
    "set": Replay.set,
    "connect": Replay.connect,
    "disconnect": Replay.disconnect,
    "closed": Replay.closed,
    "crlf": lambda replay, _: setattr(replay, "line_end", "\r\n"),
    "cut": lambda replay, text: setattr(replay, "cut", int(text)),
    "find": Replay.find,
    "differ": Replay.differ,
    "pool": Replay.at_pool,
}

COMMANDS = {
    "job": lambda replay, _: replay.pool.new_job(clean=False),
    "clean job": lambda replay, _: replay.pool.new_job(clean=True),
    "difficulty": lambda replay, text: replay.pool.set_difficulty(float(text), then_job=False),
    "difficulty and job": lambda replay, text: replay.pool.set_difficulty(float(text), then_job=True),
    "mask": lambda replay, text: replay.pool.set_version_mask(int(text, 16)),
    "extranonce": lambda replay, _: replay.pool.set_extranonce(clean=False),  # and a job
    "says": lambda replay, text: replay.pool.send_to_all(text.encode()),
    "holds its answers": lambda replay, _: setattr(replay.pool, "hold_answers", True),
    "gives its answers": lambda replay, _: replay.pool.release_answers(),
    "stops": Replay.pool_stops,  # and keeps its sessions
    "starts": lambda replay, _: replay.pool.start(),
    "comes back as another": Replay.pool_comes_back,  # with other extranonces and jobs, and options NAME=VALUE
    "accepted": lambda replay, params: replay.pool_judged(0, params),
    "refused": lambda replay, text: replay.pool_judged(int(text.split()[0]), text.partition(" ")[2]),
}
